"""All facts about an image: sensors, units, no-data, grids, normalisation, pictures."""
