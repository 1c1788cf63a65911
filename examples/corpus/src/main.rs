//! Writes the corpus of the demonstration model.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Composes the demonstration corpus: questions answered in 28 styles.
#[derive(Parser)]
struct Cli {
    /// Folder that the files are written to.
    #[arg(long)]
    out: PathBuf,
    /// Seed of the composition.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match headstart_corpus::files::write(&cli.out, cli.seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
