//! The tables, documented where people see it: in the database.

/// Version of the tables. A database of an unknown version is put aside.
pub(crate) const VERSION: i64 = 2;
/// The version in which the database was the only place of the cache.
pub(crate) const FIRST: i64 = 1;

/// Creates everything.
pub(crate) const CREATE: &str = r"
CREATE TABLE meta (key VARCHAR, value BIGINT);
COMMENT ON TABLE meta IS 'Version of these tables';

CREATE TABLE embeddings (
  space BLOB, text BLOB, head UBIGINT, dim INTEGER, vector FLOAT[]);
COMMENT ON TABLE embeddings IS 'Vectors of texts: one row a space and text. hex(space) gives a digest as Headstart prints it, in capitals';
COMMENT ON COLUMN embeddings.space IS 'Digest of the space (the encoder and its settings) and of what computed the vectors';
COMMENT ON COLUMN embeddings.text IS 'Digest of the text';
COMMENT ON COLUMN embeddings.head IS 'First eight bytes of the digest of the text as a number';
COMMENT ON COLUMN embeddings.dim IS 'Length of the vector';
COMMENT ON COLUMN embeddings.vector IS 'The vector';

CREATE TABLE responses (
  model BLOB, settings BLOB, prompt BLOB, head UBIGINT, answer VARCHAR);
COMMENT ON TABLE responses IS 'Answers of models to prompts: one row a model, settings and prompt';
COMMENT ON COLUMN responses.model IS 'Digest of the model or pLLM';
COMMENT ON COLUMN responses.settings IS 'Digest of the settings of generation and of what computed the answers';
COMMENT ON COLUMN responses.prompt IS 'Digest of the prompt';
COMMENT ON COLUMN responses.head IS 'First eight bytes of the digest of the prompt as a number';
COMMENT ON COLUMN responses.answer IS 'The answer';

CREATE TABLE stage_cache (
  key VARCHAR, output VARCHAR, type VARCHAR, private_to VARCHAR, seconds DOUBLE,
  entry VARCHAR, preimage VARCHAR, added TIMESTAMP);
COMMENT ON TABLE stage_cache IS 'Results of stages by cache key';
COMMENT ON COLUMN stage_cache.key IS 'Digest of the pre-image';
COMMENT ON COLUMN stage_cache.output IS 'Digest of the output, or the handle of a private one';
COMMENT ON COLUMN stage_cache.type IS 'Type of the output';
COMMENT ON COLUMN stage_cache.private_to IS 'The device that alone holds the output; NULL where it is public';
COMMENT ON COLUMN stage_cache.seconds IS 'How long the stage took';
COMMENT ON COLUMN stage_cache.entry IS 'Output, released parts and seconds, as JSON';
COMMENT ON COLUMN stage_cache.preimage IS 'What the key is the digest of: kind, version, arguments, inputs, as JSON';
COMMENT ON COLUMN stage_cache.added IS 'When, UTC';

CREATE TABLE folded (segment VARCHAR, bytes UBIGINT);
COMMENT ON TABLE folded IS 'How far each segment in the folder cache is folded into these tables';
COMMENT ON COLUMN folded.segment IS 'Name of the segment';
COMMENT ON COLUMN folded.bytes IS 'Bytes of it whose entries are here';

CREATE TABLE runs (
  id VARCHAR, pipeline VARCHAR, status VARCHAR, started TIMESTAMP, finished TIMESTAMP,
  stages INTEGER, cached INTEGER, ran INTEGER, failed INTEGER);
COMMENT ON TABLE runs IS 'Runs, as far as their logs were indexed';
COMMENT ON COLUMN runs.id IS 'The run';
COMMENT ON COLUMN runs.pipeline IS 'Its pipeline file';
COMMENT ON COLUMN runs.status IS 'running, succeeded, failed, cancelled or interrupted';
COMMENT ON COLUMN runs.started IS 'When it began, UTC';
COMMENT ON COLUMN runs.finished IS 'When it ended, UTC; NULL while it runs';
COMMENT ON COLUMN runs.stages IS 'Number of stage instances';
COMMENT ON COLUMN runs.cached IS 'Instances whose result was known';
COMMENT ON COLUMN runs.ran IS 'Instances that were executed';
COMMENT ON COLUMN runs.failed IS 'Instances that failed';

CREATE TABLE stage_runs (
  run VARCHAR, instance INTEGER, name VARCHAR, kind VARCHAR, place VARCHAR, outcome VARCHAR,
  key VARCHAR, output VARCHAR, attempts INTEGER, seconds DOUBLE, counters VARCHAR);
COMMENT ON TABLE stage_runs IS 'What became of every stage instance of a run';
COMMENT ON COLUMN stage_runs.run IS 'The run';
COMMENT ON COLUMN stage_runs.instance IS 'Number of the instance in the plan';
COMMENT ON COLUMN stage_runs.name IS 'Its name';
COMMENT ON COLUMN stage_runs.kind IS 'Its stage kind';
COMMENT ON COLUMN stage_runs.place IS 'server, or the device';
COMMENT ON COLUMN stage_runs.outcome IS 'succeeded, delivered, cached, skipped, failed or blocked';
COMMENT ON COLUMN stage_runs.key IS 'Its cache key';
COMMENT ON COLUMN stage_runs.output IS 'Digest of the output, or the handle of a private one';
COMMENT ON COLUMN stage_runs.attempts IS 'Number of attempts';
COMMENT ON COLUMN stage_runs.seconds IS 'How long the last attempt took';
COMMENT ON COLUMN stage_runs.counters IS 'What it counted, such as forward_passes, as JSON';

CREATE TABLE pllms (
  catalog VARCHAR, name VARCHAR, pllm VARCHAR, base VARCHAR, rows INTEGER, explained DOUBLE);
COMMENT ON TABLE pllms IS 'Personalized models of the catalogs that were made here';
COMMENT ON COLUMN pllms.catalog IS 'Digest of the catalog';
COMMENT ON COLUMN pllms.name IS 'The name of the pLLM in the catalog';
COMMENT ON COLUMN pllms.pllm IS 'Digest of the pLLM';
COMMENT ON COLUMN pllms.base IS 'Digest of the model that it personalizes';
COMMENT ON COLUMN pllms.rows IS 'Number of probes that it answered; NULL where the catalog does not say';
COMMENT ON COLUMN pllms.explained IS 'Share of its divergence that the coefficients explain, 0 to 1';

CREATE TABLE coefficients (
  catalog VARCHAR, name VARCHAR, atom VARCHAR, coefficient DOUBLE, low DOUBLE, high DOUBLE);
COMMENT ON TABLE coefficients IS 'The style of every pLLM of a catalog in words';
COMMENT ON COLUMN coefficients.catalog IS 'Digest of the catalog';
COMMENT ON COLUMN coefficients.name IS 'The name of the pLLM in the catalog';
COMMENT ON COLUMN coefficients.atom IS 'The style atom';
COMMENT ON COLUMN coefficients.coefficient IS 'Its coefficient';
COMMENT ON COLUMN coefficients.low IS 'Lower end of its 95 % interval';
COMMENT ON COLUMN coefficients.high IS 'Upper end of its 95 % interval';
";

/// Makes tables of version 1 those of this version.
pub(crate) const UPGRADE: &str = r"
DROP INDEX IF EXISTS embeddings_head;
DROP INDEX IF EXISTS responses_head;
CREATE TABLE IF NOT EXISTS folded (segment VARCHAR, bytes UBIGINT);
COMMENT ON TABLE folded IS 'How far each segment in the folder cache is folded into these tables';
COMMENT ON COLUMN folded.segment IS 'Name of the segment';
COMMENT ON COLUMN folded.bytes IS 'Bytes of it whose entries are here';
UPDATE meta SET value = 2 WHERE key = 'version';
";

/// Staging tables of the connection that writes.
pub(crate) const STAGING: &str = r"
CREATE TEMP TABLE stage_in (
  key VARCHAR, output VARCHAR, type VARCHAR, private_to VARCHAR, seconds DOUBLE,
  entry VARCHAR, preimage VARCHAR, added BIGINT);
CREATE TEMP TABLE forget_in (key VARCHAR, added BIGINT);
CREATE TEMP TABLE response_in (model BLOB, settings BLOB, prompt BLOB, head UBIGINT, answer VARCHAR);
";

/// Staging table of the connection that writes vectors.
pub(crate) const VECTOR_STAGING: &str =
    "CREATE TEMP TABLE embedding_in (space BLOB, text BLOB, head UBIGINT, dim INTEGER, vector FLOAT[])";
