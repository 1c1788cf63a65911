//! What must hold of every parser of foreign files and messages, whatever it is given. See README.md.

mod bounded;
mod files;
mod messages;
mod seeds;

pub use bounded::Bounded;
pub use files::{adapter_config, chat_template, gguf, model_config, rows, safetensors, tokenizer};
pub use messages::{cron, messages, signed};

/// Before the first input: writes the seeds where asked, and lets panics of the tokenizer and the template library be, which the
/// readers of their files catch: those that it does not catch still end the process.
pub fn init() {
    seeds::write_if_asked();
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic
            .location()
            .is_none_or(|at| !["/tokenizers-", "/minijinja-"].iter().any(|caught| at.file().contains(caught)))
        {
            abort(panic);
        }
    }));
}
