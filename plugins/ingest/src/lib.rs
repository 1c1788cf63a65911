//! Stage kind ingest and the sources: models, datasets, spaces
