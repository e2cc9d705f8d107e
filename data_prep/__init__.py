"""Raw Sentinel-1/Sentinel-2 products -> TFRecord shards that dual_encoder trains from. Run `python -m data_prep`."""
