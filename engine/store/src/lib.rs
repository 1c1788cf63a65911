//! Event log, content-addressed artifacts and the DuckDB cache
