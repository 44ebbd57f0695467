"""What travels between rooms: images, cases, schemas, configuration, errors. No torch at import."""
