"""A first description of own GeoTIFFs: geotiff.json, from the names and the pixels of the files."""
