//! Parts of plans, and plans as graphs.

use headstart_dsl::{MemoryLoader, Plan, check, graph};
use headstart_protocol::Expr;

fn design() -> Plan {
    let mut files = MemoryLoader::new().with("p/design.pllm", include_str!("files/design.pllm"));
    for key in ["friendly", "concise", "formal"] {
        files = files.with(&format!("p/catalog/{key}/adapter_config.json"), "{}");
    }
    check("p/design.pllm", &files, &Default::default()).plan.expect("it is right")
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.items.iter().map(|i| i.name.as_str()).collect()
}

#[test]
fn instances_come_after_what_they_use() {
    let plan = design();
    for n in 0..plan.instances.len() {
        assert!(plan.inputs(n).iter().all(|i| (*i as usize) < n), "{}", plan.instances[n].name);
    }
    let g = graph(&plan);
    assert_eq!(g.node_count(), plan.instances.len());
    let edges: usize = (0..plan.instances.len()).map(|n| plan.inputs(n).len()).sum();
    assert_eq!(g.edge_count(), edges);
    assert!(!petgraph::algo::is_cyclic_directed(&g));
}

#[test]
fn a_subset_holds_what_is_needed_and_no_more() {
    let part = design().subset(&["catalog".to_owned()]);
    assert_eq!(names(&part), ["base", "style", "questions", "pllm", "plain", "said", "drift", "catalog"]);
    assert_eq!(part.instances.len(), 5 + 3 * 3);
    assert_eq!(part.outputs.len(), 1, "`saved` needs more");
    assert_eq!(part.schedules.len(), 1);
    let last = part.instances.last().expect("instances");
    assert_eq!(last.name, "catalog");
    let Expr::List { items } = &last.args["divergences"] else { panic!("a list") };
    let inputs: Vec<&str> = items
        .iter()
        .map(|(_, e)| match e {
            Expr::Output { instance } => part.instances[*instance as usize].name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inputs, ["drift[\"concise\"]", "drift[\"formal\"]", "drift[\"friendly\"]"]);
}

/// What the owner of the phone is asked to approve names no instance and no digest.
#[test]
fn conditions_over_private_values_are_part_of_the_proposal() {
    let proposal = design().proposal("phone");
    let conditions: Vec<String> =
        proposal.conditions.iter().map(|c| format!("{} {} {}", c.of, c.at, c.rule)).collect();
    assert_eq!(
        conditions,
        [
            "finetune from merge or select.pllm",
            "finetune until loss < 1.9",
            "merge mix select.mix",
            "merge when select.is_mix",
        ]
    );
    assert!(design().proposal("tablet").conditions.is_empty());
}

/// The arguments of private stages, with defaults; that an artifact is given, but not which.
#[test]
fn arguments_are_part_of_the_proposal() {
    let proposal = design().proposal("phone");
    let of = |kind: &str| proposal.arguments.iter().find(|a| a.of == kind).expect("a private stage");
    assert_eq!(of("jsonl").args["path"], "file \"me.jsonl\"");
    assert_eq!(of("jsonl").unusual().collect::<Vec<_>>(), [("path", "file \"me.jsonl\"")]);
    let trained = &of("finetune").args;
    assert_eq!((trained["max_steps"].as_str(), trained["learning_rate"].as_str()), ("400", "0.001"));
    assert_eq!(["from", "data", "until"].map(|name| trained[name].as_str()), ["_", "_", "condition"]);
    assert!(proposal.arguments.iter().all(|a| a.of != "probe"), "public stages are the engine's");
    assert_eq!(proposal, design().proposal("phone"));
}

#[test]
fn a_subset_of_everything_is_everything() {
    let plan = design();
    let all: Vec<String> = plan.items.iter().map(|i| i.name.clone()).collect();
    assert_eq!(plan.subset(&all), plan);
    let none = plan.subset(&["nothing".to_owned()]);
    assert!(none.instances.is_empty() && none.items.is_empty() && none.outputs.is_empty());
}

#[test]
fn a_plan_survives_json() {
    let plan = design();
    let text = serde_json::to_string(&plan).expect("plans can be written");
    assert_eq!(serde_json::from_str::<Plan>(&text).expect("and read"), plan);
}
