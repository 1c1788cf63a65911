//! What stage kinds share: from artifacts to the folders and rows that a computation takes, and a
//! stage's progress and cancellation for a computation to report to.

mod open;
mod rows;
mod watch;

pub use open::{ModelFolders, open_model, read_questions, read_rows};
pub use rows::{count_rows, different};
pub use watch::ContextWatch;
