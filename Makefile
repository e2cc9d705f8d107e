# make demo      real Sentinel pairs -> shards -> pre-training -> fine-tuning -> export -> map, on a CPU
# make experiment  pre-trains on the sample and compares dual encoder, SimCLR and controls, under 10 minutes; runs/quick/report.html
# make check     before a commit: style, types and the quick tests, under 3 minutes
# make lint      style alone
# make test      style, types and all tests (S1S2_DATA=DIR adds those on real data)
# make install   the first part of all of them: .venv with the project in it; LOCK=1: the exact packages of locks/dev.lock
# make docs      the documentation as a site, site/index.html; a broken link is an error
# make attack    thousands of damaged and hostile files; prints the table of docs/reliability.md, in some ten minutes
# make bench-train  memory, communication and time of the training step, against others; prints ratios
# make bench-data   how fast shards are built and read, against others, in some ten minutes; prints ratios
PYTHON ?= python3
DEMO ?= demo_run
RUN := .venv/bin/python

.PHONY: install demo experiment lint types check test docs bench-data bench-train attack
.DELETE_ON_ERROR:

install: .venv/installed

.venv/installed: setup.py pyproject.toml $(if $(LOCK),locks/dev.lock)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), expected 3.11 or later; run make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "installing into .venv (some minutes the first time)"
	@if command -v uv >/dev/null; then uv venv --quiet --seed --allow-existing --python $(PYTHON) .venv; \
	else $(PYTHON) -m venv .venv; fi
	@if [ -n "$(LOCK)" ]; then locks/install $(RUN) dev dev; \
	elif command -v uv >/dev/null; then uv pip install --quiet --python $(RUN) -e '.[dev]'; \
	else $(RUN) -m pip install --quiet --no-compile -e '.[dev]'; fi
	@touch $@

demo: install
	$(RUN) -m data_prep sample --out=$(DEMO)/sample --scene=$(DEMO)/scene
	$(RUN) -m data_prep build --importer=bigearthnet --raw=$(DEMO)/sample --data_dir=$(DEMO)/data
	$(RUN) -m data_prep inspect $(DEMO)/data/s1s2_pairs/bigearthnet/1.0.0 --out=$(DEMO)/pairs.png
	$(RUN) -m data_prep overlap $(DEMO)/data/s1s2_pairs/bigearthnet/1.0.0
	$(RUN) -m data_prep build --importer=bigearthnet --raw=$(DEMO)/sample --data_dir=$(DEMO)/data --kind=tiles --labels=water_weak
	$(RUN) main.py --config=configs/pretrain.py:smoke --workdir=$(DEMO)/pretrain \
	  --config.data.dir=$(DEMO)/data/s1s2_pairs/bigearthnet/1.0.0
	$(RUN) main.py --config=configs/evaluate.py --config.init_from=$(DEMO)/pretrain
	$(RUN) main.py --config=configs/finetune.py:water_weak --config.init_from=$(DEMO)/pretrain --workdir=$(DEMO)/water \
	  --config.data.dir=$(DEMO)/data/s1s2_tiles/bigearthnet_water_weak/1.0.0
	$(RUN) -m dual_encoder.export --workdir=$(DEMO)/pretrain --sensor=s2 --out=$(DEMO)/encoder_s2
	$(RUN) -m dual_encoder.predict --workdir=$(DEMO)/water --s1=$(DEMO)/scene/scene_20170613T165043.tif \
	  --out=$(DEMO)/map.tif --preview=$(DEMO)/map.png --polygons=$(DEMO)/map.gpkg
	$(RUN) -m dual_encoder.embed --workdir=$(DEMO)/pretrain --data=$(DEMO)/data/s1s2_pairs/bigearthnet/1.0.0 --out=$(DEMO)/vectors
	$(RUN) -m dual_encoder.search --index=$(DEMO)/vectors --html=$(DEMO)/vectors.html
	@echo
	@echo "the pairs:          $(DEMO)/pairs.png"
	@echo "pre-training:       $(DEMO)/pretrain/report.html"
	@echo "segmentation:       $(DEMO)/water/report.html"
	@echo "exported encoder:   $(DEMO)/encoder_s2"
	@echo "map of a scene:     $(DEMO)/map.png, $(DEMO)/map.tif, $(DEMO)/map.gpkg"
	@echo "similar images:     $(DEMO)/vectors.html"

experiment: install
	$(RUN) -m data_prep sample --out=data/sample
	$(RUN) -m data_prep build --importer=bigearthnet --raw=data/sample --data_dir=data
	$(RUN) -m data_prep build --importer=bigearthnet --raw=data/sample --data_dir=data --kind=tiles --labels=land_cover
	$(RUN) -m data_prep build --importer=bigearthnet --raw=data/sample --data_dir=data --kind=tiles --labels=water_weak
	$(RUN) -m dual_encoder.experiment --plan=configs/experiment.py:quick --out=runs/quick --jobs=2

lint: install
	$(RUN) -m ruff check --quiet .

types: install
	$(RUN) -m mypy

check: lint types
	$(RUN) -m pytest -q -n 2 --dist=loadfile -m "quick and not slow"

test: lint types
	$(RUN) -m pytest -n 2 --dist=loadfile

bench-data: install
	$(RUN) benchmarks/feed.py
	$(RUN) benchmarks/million.py
	$(RUN) benchmarks/build.py

bench-train: install
	$(RUN) -m benchmarks.loss
	$(RUN) -m benchmarks.gradient_cache
	$(RUN) -m benchmarks.communication
	$(RUN) -m benchmarks.trainer
	$(RUN) -m benchmarks.train_step
	$(RUN) -m benchmarks.train_step --size=128 --width=32 --steps=3
	$(RUN) -m benchmarks.train_step --size=128 --width=64 --batch=32 --steps=2
	$(RUN) -m benchmarks.convolutions

docs: install
	$(RUN) -m sphinx -q -W --keep-going -c docs . site
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > site/index.html
	@echo "site/index.html"

attack: install
	$(RUN) -m benchmarks.attack
