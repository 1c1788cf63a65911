//! What must hold of every parser of foreign files and messages, whatever it is given. See README.md.

mod bounded;
mod files;
mod messages;
mod seeds;

pub use bounded::Bounded;
pub use files::{adapter_config, chat_template, gguf, model_config, rows, safetensors, tokenizer};
pub use messages::{cron, messages, signed};
pub use seeds::write_if_asked;
