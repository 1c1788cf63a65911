//! The stages, end to end, over a toy backend whose models have known styles.

mod toy;

use headstart_explain::catalog::{ABOUT_FILE, Catalog, PLLMS_FILE, TENSORS_FILE};
use headstart_explain::divergence::Divergence;
use headstart_protocol::release::EMBEDDED_ROWS;
use headstart_protocol::{ArtifactRef, Context, FailureClass, Output, Type, Value};
use headstart_testkit::MemoryContext;
use toy::{divergences, model, person, pllm, prompts, space, stage, value};

#[test]
fn probing_again_asks_only_what_is_new() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, "plain");
    let friend = pllm(&ctx, &base, "excited");
    let ask = |to| {
        let args = [("model", value(&friend)), ("prompts", value(&prompts(&ctx, 0, to)))];
        ctx.run(&*stage("probe"), args).expect("answers")
    };
    let first = ask(10);
    assert_eq!(ctx.counter("forward_passes"), 10);
    let second = ask(12);
    assert_eq!(ctx.counter("forward_passes"), 12, "two prompts are new");
    assert_eq!((ctx.counter("rows_cached"), ctx.counter("rows_computed")), (10, 12));
    assert_eq!(ctx.rows_of(&first), ctx.rows_of(&second)[..10]);
    let manifest = ctx.manifest(&first).unwrap();
    assert_eq!((&manifest.uses["model"], &manifest.uses["base"]), (&friend, &base));
    assert_eq!(manifest.value["rows"], 10);
}

#[test]
fn sampled_answers_do_not_depend_on_what_was_cached() {
    let ask = |from: usize| {
        let ctx = MemoryContext::new();
        let base = model(&ctx, "plain");
        let run = |prompts| {
            let args =
                [("model", value(&base)), ("prompts", value(&prompts)), ("temperature", Value::Float(0.7))];
            ctx.run(&*stage("probe"), args).expect("answers")
        };
        run(prompts(&ctx, from, 6));
        ctx.rows_of(&run(prompts(&ctx, 0, 6)))
    };
    assert_eq!(ask(0), ask(4));
}

#[test]
fn embedding_compares_row_by_row_and_names_what_it_compared() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, "plain");
    let space = space(&ctx, "pooled", &base);
    let mine = person(&ctx, "brief", 3, 30, 36);
    let args = [("responses", value(&mine)), ("against", value(&base)), ("space", value(&space))];
    let artifact = ctx.run(&*stage("embed"), args).unwrap();
    let d = Divergence::open(&ctx, &artifact, "`me`").unwrap();
    assert_eq!((d.rows.rows, d.about.d, d.model, d.base), (6, 24, None, Some(base)));
    assert!(d.rows.row(0)[24] < -0.5, "brief answers are shorter: {}", d.rows.row(0)[24]);
    assert!(d.rows.row(5).iter().all(|x| *x == 0.0), "a plain answer is the base's own");
}

/// Which rows are taken is known from their number: of a file that is named twice, every second one is the same.
#[test]
fn rows_that_are_embedded_twice_count_once() {
    let ctx = MemoryContext::new().with_private();
    let base = model(&ctx, "plain");
    let space = space(&ctx, "pooled", &base);
    let mine = ctx.dataset(&[("a", "one"), ("b", "two"), ("a", "one"), ("b", "two")]);
    let args = [
        ("responses", value(&mine)),
        ("against", value(&base)),
        ("space", value(&space)),
        ("rows", Value::Int(2)),
    ];
    let artifact = ctx.run(&*stage("embed"), args).unwrap();
    assert_eq!((ctx.value_of(&artifact)["n"].as_u64(), ctx.counter(EMBEDDED_ROWS)), (Some(2), 1));
}

#[test]
fn embedding_says_which_prompt_or_row_is_wrong() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, "plain");
    let space = value(&space(&ctx, "sentence", &base));
    let (mine, theirs) = (person(&ctx, "brief", 3, 0, 3), person(&ctx, "plain", 0, 1, 9));
    let args = [("responses", value(&mine)), ("against", value(&theirs)), ("space", space.clone())];
    let e = ctx.run(&*stage("embed"), args).unwrap_err();
    assert!(e.class == FailureClass::Input && e.message.contains("What is topic 0?"), "{}", e.message);
    let bare = prompts(&ctx, 0, 3);
    let args = [("responses", value(&bare)), ("against", value(&base)), ("space", space)];
    let e = ctx.run(&*stage("embed"), args).unwrap_err();
    assert!(e.message.contains("row 1") && e.message.contains("no response"), "{}", e.message);
}

#[test]
fn the_summarizer_cancels_what_depends_on_order() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, "plain");
    let space = space(&ctx, "summarizer", &base);
    let mine = person(&ctx, "brief", 2, 0, 3);
    let args = [("responses", value(&mine)), ("against", value(&base)), ("space", value(&space))];
    let artifact = ctx.run(&*stage("embed"), args).unwrap();
    let d = Divergence::open(&ctx, &artifact, "`me`").unwrap();
    assert!(d.rows.row(0)[0] < -0.1 && d.rows.row(0)[1] == 0.0, "{:?}", &d.rows.row(0)[..3]);
    assert_eq!(d.about.candidates[0].word, "concise");
}

#[test]
fn a_summarizer_can_be_asked_in_one_order_only() {
    let ctx = MemoryContext::new();
    let base = model(&ctx, "plain");
    let mine = person(&ctx, "long", 2, 0, 3);
    let embed = |value: serde_json::Value| {
        let space = ctx.put(Output::new(Type::Space, value).uses("model", base.clone()));
        let args = [
            ("responses", self::value(&mine)),
            ("against", self::value(&base)),
            ("space", self::value(&space)),
        ];
        let artifact = ctx.run(&*stage("embed"), args).unwrap();
        Divergence::open(&ctx, &artifact, "`me`").unwrap()
    };
    let once = embed(serde_json::json!({ "kind": "summarizer", "orders": "forth" }));
    assert!(once.rows.row(0)[1] == 5.0, "the first place's bias stays: {:?}", &once.rows.row(0)[..3]);
}

#[test]
fn the_catalog_names_the_styles_and_adds_two_kilobytes_a_pllm_at_most() {
    let ctx = MemoryContext::new();
    let (base, _, all) = divergences(&ctx, "sentence");
    let build = |n: usize| {
        let list = Value::List(all[..n].to_vec());
        ctx.run(&*stage("decompose"), [("divergences", list)]).unwrap()
    };
    let artifact = build(4);
    let manifest = ctx.manifest(&artifact).unwrap();
    assert_eq!(manifest.uses["base"], base);
    assert!(manifest.uses.contains_key("pllm:excited") && manifest.uses.contains_key("space"));
    let first = |name: &str| manifest.value["pllms"][name]["words"][0]["word"].as_str().unwrap().to_owned();
    assert!(["concise", "brief", "terse"].contains(&first("brief").as_str()), "{}", manifest.value);
    assert!(
        ["enthusiastic", "excited", "dramatic"].contains(&first("excited").as_str()),
        "{}",
        manifest.value
    );
    let c = Catalog::open(&ctx, &artifact).unwrap();
    assert_eq!(c.pllms.all().unwrap().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), toy::STYLES);
    let said = c.pllms.all().unwrap();
    assert!(said.iter().flat_map(|p| &p.words).all(|w| w.low <= w.coefficient && w.coefficient <= w.high));

    let size = |n: usize| ctx.manifest(&build(n)).unwrap().size();
    let wide = 2 * (headstart_explain::metric::MAX_DIM - c.factor.rows);
    assert!((size(4) - size(3)) as usize + wide <= 2048, "{} {}", size(4) - size(3), wide);
    assert_eq!(build(4), build(4), "the same input gives the same catalog");
}

#[test]
fn every_method_publishes_a_catalog_that_reads_back() {
    let ctx = MemoryContext::new();
    let (_, _, all) = divergences(&ctx, "pooled");
    for method in ["sparse", "ridge", "omp", "paper"] {
        let args = [("divergences", Value::List(all.clone())), ("method", Value::Text(method.into()))];
        let artifact = ctx.run(&*stage("decompose"), args).unwrap();
        let c = Catalog::open(&ctx, &artifact).unwrap();
        assert!(c.pllms.all().unwrap().iter().all(|p| p.words.len() <= 5 && p.explained <= 1.0), "{method}");
        assert_eq!(c.vectors.rows(), 4, "{method}");
    }
}

#[test]
fn users_words_and_people_s_offset_are_part_of_the_catalog() {
    let ctx = MemoryContext::new();
    let (base, space, all) = divergences(&ctx, "sentence");
    let words = ctx.dataset(&[("shouting", "WOW! YES! LOUD! NOW!"), ("shouting", "HEY! YOU! LISTEN!")]);
    let people = person(&ctx, "long", 4, 0, 4);
    let args = [("responses", value(&people)), ("against", value(&base)), ("space", value(&space))];
    let offset = ctx.run(&*stage("embed"), args).unwrap();
    let args = [("divergences", Value::List(all)), ("words", value(&words)), ("reference", value(&offset))];
    let c = Catalog::open(&ctx, &ctx.run(&*stage("decompose"), args).unwrap()).unwrap();
    assert_eq!(c.about.words.last().unwrap().word, "shouting");
    let d = Divergence::open(&ctx, &offset, "offset").unwrap();
    // As far as four texts can tell it: what may be chance is left on.
    let (mean, off) = (d.rows.mean(), &c.reference);
    let kept: Vec<f64> = off.iter().zip(&mean).filter(|(_, m)| m.abs() > 1e-6).map(|(o, m)| o / m).collect();
    assert!(kept.iter().all(|k| (0.01..0.999).contains(k) && (k - kept[0]).abs() < 1e-3), "{kept:?}");
}

#[test]
fn adding_a_word_puts_nothing_to_the_pllms() {
    let ctx = MemoryContext::new();
    let (_, _, all) = divergences(&ctx, "sentence");
    let run = |words: Option<Value>| {
        let given = [("divergences", Value::List(all.clone()))];
        ctx.run(&*stage("decompose"), given.into_iter().chain(words.map(|w| ("words", w)))).unwrap()
    };
    run(None);
    let before = ctx.counter("forward_passes");
    let words = ctx.dataset(&[
        ("shouting", "WOW! YES! LOUD! NOW!"),
        ("plain:shouting", "Yes, it is loud."),
        ("shouting", "HEY! YOU! LISTEN!"),
    ]);
    let with = run(Some(value(&words)));
    // The second shout is compared with an answer of the lexicon, which has its vector already.
    assert_eq!(ctx.counter("forward_passes") - before, 3, "only the new texts are embedded");
    assert_eq!(Catalog::open(&ctx, &with).unwrap().about.words.last().unwrap().word, "shouting");
    run(Some(value(&words)));
    assert_eq!(ctx.counter("forward_passes") - before, 3);
}

#[test]
fn a_space_beside_divergences_that_name_another_is_refused() {
    let ctx = MemoryContext::new();
    let (base, own, all) = divergences(&ctx, "sentence");
    let decompose = |space: &ArtifactRef| {
        let args = [("divergences", Value::List(all.clone())), ("space", value(space))];
        ctx.run(&*stage("decompose"), args)
    };
    decompose(&own).unwrap();
    let other = space(&ctx, "pooled", &base);
    let e = decompose(&other).unwrap_err();
    let said = ["`space`", &other.id.short(), &own.id.short()];
    assert!(said.iter().all(|part| e.message.contains(part)), "{}", e.message);
    assert!(e.help.unwrap().contains("leave `space` out"));
}

#[test]
fn damaged_catalogs_and_mixed_spaces_are_refused() {
    let ctx = MemoryContext::new();
    let (_, _, mut all) = divergences(&ctx, "sentence");
    let (_, _, other) = divergences(&ctx, "pooled");
    let artifact = ctx.run(&*stage("decompose"), [("divergences", Value::List(all.clone()))]).unwrap();
    let folder = ctx.open(&artifact).unwrap();
    let copy = ctx.files().join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    for name in [ABOUT_FILE, PLLMS_FILE] {
        std::fs::copy(folder.join(name), copy.join(name)).unwrap();
    }
    let bytes = std::fs::read(folder.join(TENSORS_FILE)).unwrap();
    std::fs::write(copy.join(TENSORS_FILE), &bytes[..bytes.len() / 2]).unwrap();
    let e = Catalog::read(&copy).unwrap_err();
    assert!(e.message.contains(TENSORS_FILE), "{}", e.message);
    // Its format says so before anything else is missing.
    let facts = std::fs::read_to_string(folder.join(ABOUT_FILE)).unwrap();
    assert!(facts.contains("\"format\":4"), "{facts}");
    for (format, age) in [(2, "an earlier version"), (99, "a later version")] {
        std::fs::write(copy.join(ABOUT_FILE), format!("{{\"format\":{format}}}")).unwrap();
        let e = Catalog::read(&copy).unwrap_err();
        let said = [ABOUT_FILE, age, &format!("format {format}"), "reads format 4"];
        assert!(said.iter().all(|part| e.message.contains(part)), "{}", e.message);
        assert!(e.help.as_deref().is_some_and(|help| help.contains("publish the catalog again")), "{e:?}");
    }
    all.push(("stranger".into(), other[0].1.clone()));
    let e = ctx.run(&*stage("decompose"), [("divergences", Value::List(all))]).unwrap_err();
    assert!(e.message.contains("stranger") && e.message.contains("space"), "{}", e.message);
}
