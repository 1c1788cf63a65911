//! Language-model compute behind a small Backend trait; candle inside
