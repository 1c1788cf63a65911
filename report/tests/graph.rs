//! Graphs, as pictures and as text for drawing programs.

use headstart_report::graph::{Edge, EdgeKind, Graph, Node, Role, dot, mermaid, svg};
use proptest::prelude::*;

fn node(name: &str) -> Node {
    Node { name: name.to_owned(), kind: "probe".to_owned(), makes: "Responses".to_owned(), ..Node::default() }
}

fn edge(from: usize, to: usize, kind: EdgeKind) -> Edge {
    Edge { from, to, kind }
}

/// A server, a device, a fan-out, and every kind of edge.
fn sample() -> Graph {
    Graph {
        title: "Refresh <everything> & more".to_owned(),
        nodes: vec![
            Node { doc: "Says \"hello\".".to_owned(), count: Some(3), ..node("said") },
            Node { group: Some(0), private: true, optional: true, ..node("mine") },
            Node { group: Some(0), released: true, ..node("tuned") },
            Node { role: Role::Output, ..Node { kind: String::new(), makes: String::new(), ..node("out") } },
        ],
        edges: vec![
            edge(0, 1, EdgeKind::Input),
            edge(1, 2, EdgeKind::Input),
            edge(0, 3, EdgeKind::Output),
            edge(1, 3, EdgeKind::Release),
            edge(2, 3, EdgeKind::ReleaseModel),
        ],
        groups: vec!["the \"phone\"".to_owned()],
        notes: vec!["schedule nightly: 0 3 * * * (UTC) runs said".to_owned()],
    }
}

#[test]
fn golden() {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("graph.mermaid", mermaid(&sample()));
        insta::assert_snapshot!("graph.dot", dot(&sample()));
        insta::assert_snapshot!("graph.svg", svg(&sample()));
    });
}

#[test]
fn plain_data_that_makes_no_sense_is_drawn_without_it() {
    let mut graph = sample();
    let right = [mermaid(&graph), dot(&graph), svg(&graph)];
    graph.edges.push(edge(7, 0, EdgeKind::Input));
    graph.edges.push(edge(0, 7, EdgeKind::Release));
    assert_eq!([mermaid(&graph), dot(&graph), svg(&graph)], right);
    graph.nodes[1].group = Some(9);
    assert!(mermaid(&graph).contains("\n  n1["), "an unknown group is the server");
    // A cycle is no pipeline, and is drawn all the same.
    graph.edges.push(edge(2, 0, EdgeKind::Input));
    assert!(svg(&graph).ends_with("</svg>\n"));
    assert!(svg(&Graph::default()).ends_with("</svg>\n"));
}

#[test]
fn names_cannot_break_out_of_their_notation() {
    let name = "a\"]; <script>&\n-->\u{7}";
    let graph =
        Graph { nodes: vec![node(name)], groups: vec![name.to_owned()], title: name.to_owned(), ..sample() };
    let drawn = svg(&graph);
    assert!(!drawn.contains("<script>") && !drawn.contains('\u{7}'), "{drawn}");
    assert!(mermaid(&graph).lines().all(|l| !l.starts_with("-->")));
    assert_eq!(dot(&graph).matches("\\\"").count(), 2, "both quotes are escaped");
}

/// Acyclic graphs of up to twelve nodes in up to three groups.
fn graphs() -> impl Strategy<Value = Graph> {
    let nodes = prop::collection::vec((".{0,40}", prop::option::of(0usize..3), any::<bool>()), 0..12);
    let edges = prop::collection::vec((0usize..12, 0usize..12), 0..30);
    (nodes, edges).prop_map(|(nodes, edges)| Graph {
        nodes: nodes
            .into_iter()
            .map(|(name, group, private)| Node { group, private, count: group, ..node(&name) })
            .collect(),
        edges: edges
            .into_iter()
            .filter(|(a, b)| a != b)
            .map(|(a, b)| edge(a.min(b), a.max(b), EdgeKind::Input))
            .collect(),
        groups: vec!["a".into(), "b".into(), "c".into()],
        ..Graph::default()
    })
}

/// The numbers of an attribute, wherever it is in the picture.
fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
    let start = format!(" {attribute}=\"");
    svg.split(&start).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
}

proptest! {
    #[test]
    fn any_graph_is_drawn_inside_its_frame(graph in graphs()) {
        let drawn = svg(&graph);
        prop_assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        prop_assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{}", drawn);
        let width = numbers(&drawn, "width");
        prop_assert!(width.iter().all(|w| *w >= 0.0 && *w <= width[0]), "{:?}", width);
        prop_assert_eq!(&drawn, &svg(&graph), "the same graph gives the same picture");
        let listed = mermaid(&graph);
        let listed = listed.lines().filter(|l| l.trim_start().starts_with('n') && l.contains('['));
        prop_assert_eq!(listed.count(), graph.nodes.len());
    }
}
