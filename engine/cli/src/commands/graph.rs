//! `headstart graph`: a pipeline as a picture, or as text for drawing programs.

use headstart_history::graph::of_plan;
use headstart_report::graph::{self, Graph};

use crate::args::{Graph as Args, Notation};
use crate::exit::CommandError;
use crate::loader;

/// Runs the command.
///
/// # Errors
/// If the file has no plan, or standard output cannot be written.
pub fn run(args: &Args) -> Result<(), CommandError> {
    let graph = of_plan(&loader::plan(&args.pipeline, loader::Notes::Hidden)?);
    Ok(headstart_console::print(&draw(&graph, args.notation))?)
}

fn draw(graph: &Graph, notation: Notation) -> String {
    match notation {
        Notation::Mermaid => graph::mermaid(graph),
        Notation::Dot => graph::dot(graph),
        Notation::Svg => graph::svg(graph),
    }
}

#[cfg(test)]
mod tests {
    use headstart_dsl::MemoryLoader;

    use super::*;

    /// The design's example, as a reader of each notation gets it.
    #[test]
    fn notations() {
        let source = include_str!("../../../../dsl/tests/files/design.pllm");
        let files = MemoryLoader::new().with("p/design.pllm", source).with("p/catalog/friendly/a", "");
        let files = files.with("p/catalog/concise/a", "").with("p/catalog/formal/a", "");
        let checked = headstart_dsl::check("p/design.pllm", &files, &Default::default());
        let graph = of_plan(&checked.plan.expect("the example has no errors"));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("graph.mermaid", draw(&graph, Notation::Mermaid));
            insta::assert_snapshot!("graph.dot", draw(&graph, Notation::Dot));
            insta::assert_snapshot!("graph.svg", draw(&graph, Notation::Svg));
        });
    }
}
