//! Draws a pipeline file: `cargo run -p headstart-dsl --example picture -- FILE > out.svg`. Every
//! pattern matches three paths, so that no data is needed.

use headstart_dsl::{FileLoader, check, render, svg};

struct Disk;

impl FileLoader for Disk {
    fn read(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|e| e.to_string())
    }

    fn glob(&self, _: &str) -> Result<Vec<String>, String> {
        Ok(["concise", "formal", "friendly"].map(str::to_owned).to_vec())
    }
}

fn main() {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: picture FILE");
        std::process::exit(2);
    };
    let checked = check(&path, &Disk, &Default::default());
    eprint!("{}", render(&checked.diagnostics, &checked.sources, false));
    match checked.plan {
        Some(plan) => print!("{}", svg(&plan)),
        None => std::process::exit(2),
    }
}
