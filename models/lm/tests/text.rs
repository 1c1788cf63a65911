//! Prompt formats: what a model is given, where its answer begins and ends.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use std::fs;
use std::path::Path;

use headstart_lm::{TextCodec, train_tokenizer};
use headstart_protocol::rows::{Role, Row, Turn};
use serde_json::{Value, json};

const CORPUS: [&str; 3] =
    ["What is rain?", "Falling water, dear friend; water that falls.", "Don't stop — 10,000 e-mails…"];

fn tokenizer(dir: &Path) {
    train_tokenizer(&mut CORPUS.into_iter(), 300, &headstart_disk::SystemDisk, dir).unwrap();
}

/// Changes the tokenizer's configuration.
fn configure(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

fn shown(codec: &TextCodec, ids: &[u32]) -> String {
    ids.iter().map(|id| codec.token_text(*id)).collect()
}

/// Ids of a row, and how many of them are its prompt's.
fn row_ids(codec: &TextCodec, prompt: &str, response: &str) -> (Vec<u32>, usize) {
    let (ids, answers) = codec.row_ids(&Row::new(prompt, response)).unwrap();
    assert_eq!((answers.len(), answers[0].end), (1, ids.len()));
    (ids, answers[0].start)
}

fn load_error(dir: &Path) -> String {
    TextCodec::load(dir).err().expect("should not load").to_string()
}

#[test]
fn a_row_is_its_prompt_then_its_answer_then_the_end() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let codec = TextCodec::load(dir.path()).unwrap();
    let prompt = codec.prompt_ids("What is rain?").unwrap();
    let (row, masked) = row_ids(&codec, "What is rain?", "Water.");
    assert_eq!(shown(&codec, &prompt), "<|user|>What is rain?<|assistant|>");
    assert_eq!(shown(&codec, &row), "<|user|>What is rain?<|assistant|>Water.<|end|>");
    assert_eq!((masked, &row[..masked]), (prompt.len(), &prompt[..]));
    assert_eq!(codec.eos(), &row[row.len() - 1..]);
    assert_eq!(codec.decode(&row[masked..]), "Water.");
    assert_eq!(codec.vocab(), 300);
}

#[test]
fn without_a_template_a_line_break_parts_prompt_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    configure(dir.path(), |c| {
        c.as_object_mut().unwrap().remove("chat_template");
    });
    let codec = TextCodec::load(dir.path()).unwrap();
    let (row, masked) = row_ids(&codec, "What is rain?", "\nWater.");
    assert_eq!(shown(&codec, &row), "What is rain?\n\nWater.<|end|>");
    assert_eq!(row[..masked], codec.prompt_ids("What is rain?").unwrap());
    assert_eq!(codec.decode(&row[masked..]), "\nWater.");
}

fn turn(role: Role, content: &str) -> Turn {
    Turn::new(role, content)
}

/// A conversation of a system turn, a first exchange, and a second.
fn conversation() -> Row {
    let history =
        vec![turn(Role::System, "Be kind."), turn(Role::User, "Rain?"), turn(Role::Assistant, "Water.")];
    Row { history, ..Row::new("Friend?", "Dear.") }
}

#[test]
fn of_a_conversation_the_answers_are_trained() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template =
        "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";
    fs::write(
        dir.path().join("chat_template.jinja"),
        template.replace("m.role", "(m.role if m.role != 'system' else 'user')"),
    )
    .unwrap();
    let codec = TextCodec::load(dir.path()).unwrap();
    let (ids, answers) = codec.row_ids(&conversation()).unwrap();
    let whole = "<|user|>Be kind.<|end|>\n<|user|>Rain?<|end|>\n<|assistant|>Water.<|end|>\n\
                 <|user|>Friend?<|end|>\n<|assistant|>Dear.<|end|>";
    assert_eq!(shown(&codec, &ids), whole);
    let trained: Vec<String> = answers.iter().map(|r| shown(&codec, &ids[r.clone()])).collect();
    assert_eq!(trained, ["Water.<|end|>", "Dear.<|end|>"]);
    assert_eq!(codec.question_ids(&conversation()).unwrap(), ids[..answers[1].start]);
}

#[test]
fn a_conversation_without_a_template_is_turns_and_line_breaks() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    configure(dir.path(), |c| {
        c.as_object_mut().unwrap().remove("chat_template");
    });
    let codec = TextCodec::load(dir.path()).unwrap();
    let (ids, answers) = codec.row_ids(&conversation()).unwrap();
    assert_eq!(shown(&codec, &ids), "Be kind.\nRain?\nWater.<|end|>Friend?\nDear.<|end|>");
    let trained: Vec<String> = answers.iter().map(|r| shown(&codec, &ids[r.clone()])).collect();
    assert_eq!(trained, ["Water.<|end|>", "Dear.<|end|>"]);
}

/// The form of SmolLM2 and Qwen2: a system turn by default, a line break behind the end of a turn.
#[test]
fn what_follows_the_end_of_a_turn_is_not_trained() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template = "{%- if messages[0]['role'] != 'system' %}
    {{- '<|user|>Be kind.<|end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|' + m.role + '|>\\n' + m['content'].strip() + '<|end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let codec = TextCodec::load(dir.path()).unwrap();
    let (row, masked) = row_ids(&codec, " What is rain? ", "Water.");
    let asked = "<|user|>Be kind.<|end|>\n<|user|>\nWhat is rain?<|end|>\n<|assistant|>\n";
    assert_eq!(shown(&codec, &row[..masked]), asked);
    assert_eq!(shown(&codec, &row[masked..]), "Water.<|end|>");
}

#[test]
fn the_end_of_a_turn_ends_an_answer_even_if_no_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    // A base model whose own end-of-text differs from its template's end of turn.
    configure(dir.path(), |c| c["eos_token"] = json!("<|user|>"));
    let codec = TextCodec::load(dir.path()).unwrap();
    let ends: Vec<String> = codec.eos().iter().map(|id| codec.token_text(*id)).collect();
    assert_eq!(ends, ["<|end|>", "<|user|>"]);
}

#[test]
fn faults_name_file_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let message = load_error(at);
    assert!(message.contains("tokenizer.json") && message.contains("no tokenizer"), "{message}");

    tokenizer(at);
    configure(at, |c| c["eos_token"] = json!("</s>"));
    let message = load_error(at);
    assert!(message.contains("tokenizer_config.json") && message.contains("`</s>`"), "{message}");

    configure(at, |c| c["eos_token"] = Value::Null);
    let message = load_error(at);
    assert!(message.contains("no end-of-sequence token"), "{message}");

    fs::write(at.join("generation_config.json"), r#"{"eos_token_id": [2, 9999]}"#).unwrap();
    let message = load_error(at);
    assert!(message.contains("generation_config.json") && message.contains("9999"), "{message}");

    fs::write(at.join("generation_config.json"), r#"{"eos_token_id": [2]}"#).unwrap();
    // Such a model can be asked, but nothing can be scored or trained.
    configure(at, |c| c["chat_template"] = json!("<|im_start|>{{ messages[0].content }}"));
    let codec = TextCodec::load(at).unwrap();
    codec.prompt_ids("x").unwrap();
    let message = codec.row_ids(&Row::new("x", "y")).unwrap_err().to_string();
    assert!(message.contains("tokenizer_config.json") && message.contains("leaves out"), "{message}");

    configure(at, |c| c["chat_template"] = json!("{% for m in messages %}"));
    assert!(load_error(at).contains("chat template"));

    fs::write(at.join("tokenizer.json"), "{").unwrap();
    assert!(load_error(at).contains("not a tokenizer in the published format"));
}

#[test]
fn the_tokenizer_keeps_every_byte_and_does_not_depend_on_chance() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tokenizer(a.path());
    tokenizer(b.path());
    let bytes = |dir: &Path| fs::read(dir.join("tokenizer.json")).unwrap();
    assert!(bytes(a.path()) == bytes(b.path()));
    let codec = TextCodec::load(a.path()).unwrap();
    let text = "Übermut — 日本語 \u{1F600}\ttabs  and\n\nbreaks";
    assert_eq!(codec.decode(&codec.text_ids(text).unwrap()), text);
}

/// Such a file is read in the other's stead where names are not told by case.
#[test]
fn a_file_whose_name_differs_by_case_alone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    fs::write(dir.path().join("Chat_Template.jinja"), "x").unwrap();
    let message = load_error(dir.path());
    assert!(message.contains("Chat_Template.jinja") && message.contains("by case"), "{message}");
}

/// A template that is judged to treat all content alike never sees it: its instructions and what it writes of its
/// own are the same for every text, and the text is put in afterwards.
#[test]
fn texts_are_put_into_what_a_template_wrote() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template = "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content | trim ~ '<|end|>' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{{ messages[0].content | tojson }}";
    configure(dir.path(), |c| c["chat_template"] = json!(template));
    let codec = TextCodec::load(dir.path()).unwrap();
    let (asked, said) = (" \"What\" is <|end|>{{ 1 }}\n", "\tWater\u{205F}\u{205F}");
    let (row, masked) = row_ids(&codec, asked, said);
    assert_eq!(shown(&codec, &row[..masked]), "<|user|>\"What\" is <|end|>{{ 1 }}<|end|><|assistant|>");
    assert_eq!(shown(&codec, &row[masked..]), "Water<|end|>");
    let question = shown(&codec, &codec.prompt_ids(asked).unwrap());
    assert!(question.ends_with("<|assistant|>\" \\\"What\\\" is <|end|>{{ 1 }}\\n\""), "{question}");
    assert_eq!(codec.rendered_response(&Row::new(asked, said)).unwrap(), "Water");
    let many = format!("{template}{}", "{{ messages[0].content }}".repeat(8));
    configure(dir.path(), |c| c["chat_template"] = json!(many));
    let e = TextCodec::load(dir.path()).unwrap().prompt_ids("x").unwrap_err().to_string();
    assert!(e.contains("more than 8 times"), "{e}");
}

/// A marker that is no token of its own is ordinary text, as in many fine-tunes.
#[test]
fn a_marker_may_be_no_token() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template = "{% for m in messages %}{{ '<|' + m.role + '_|>' + m.content + '<|end|>' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|assistant_|>' }}{% endif %}";
    configure(dir.path(), |c| c["chat_template"] = json!(template));
    let codec = TextCodec::load(dir.path()).unwrap();
    let (row, masked) = row_ids(&codec, "x", "Water.");
    assert_eq!(shown(&codec, &row[masked..]), "Water.<|end|>");
    assert_eq!(shown(&codec, &row[..masked]), "<|user_|>x<|end|><|assistant_|>");
}

/// A template that begins an answer with reasoning, and leaves reasoning out of answers that are there.
#[test]
fn reasoning_that_a_template_begins_or_leaves_out_is_no_part_of_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content.split('</think>')[-1] %}\
                    {{ '<|assistant|>' + c + '<|end|>' }}{% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}";
    configure(dir.path(), |c| c["chat_template"] = json!(template));
    let codec = TextCodec::load(dir.path()).unwrap();
    assert_eq!(shown(&codec, &codec.prompt_ids("x").unwrap()), "<|user|>x<|assistant|><think>\n");
    let history = vec![turn(Role::User, "Rain?"), turn(Role::Assistant, "<think>hm</think>Water.")];
    let row = Row { history, ..Row::new("Friend?", "<think>\nhm</think>Dear.") };
    let tokens = codec.row_tokens(&row).unwrap();
    let said: Vec<String> =
        tokens.answers.iter().map(|a| shown(&codec, &tokens.ids[a.tokens.clone()])).collect();
    assert_eq!(said, ["Water.<|end|>", "Dear.<|end|>"]);
    let bytes: Vec<usize> = tokens.answers.iter().map(|a| *a.bytes.last().unwrap()).collect();
    assert_eq!(bytes, [6, 5], "of what the template keeps");
    assert_eq!(codec.rendered_response(&row).unwrap(), "Dear.");
}

/// Tokenizers that mark the beginning of a text: an answer on its own has other tokens.
#[test]
fn answers_are_tokenized_within_their_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    let pieces = ["<unk>", "</s>", "<|a|>", "▁", "W", "a", "t", "e", "r", "?", "▁W", "▁a"];
    for (id, piece) in pieces.iter().enumerate() {
        vocab.insert((*piece).into(), json!(id));
    }
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let tokenizer = json!({"version": "1.0", "added_tokens": [special(1, "</s>"), special(2, "<|a|>")],
        "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["▁", "W"], ["▁", "a"]], "unk_token": "<unk>",
            "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false}});
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = |between: &str| {
        let template = format!(
            "{{% for m in messages %}}{{{{ m.content + ('</s>' if m.role == 'assistant' else '{between}') }}}}{{% endfor %}}"
        );
        let config = json!({"eos_token": "</s>", "chat_template": template});
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        TextCodec::load(dir.path()).unwrap()
    };
    let ids = |codec: &TextCodec, answer: &str| {
        let tokens = codec.row_tokens(&Row::new("a", answer)).unwrap();
        let answers: Vec<u32> = tokens.ids[tokens.answers[0].tokens.clone()].to_vec();
        (tokens.ids, answers)
    };
    // No word begins behind a marker: only at the beginning of the text.
    let (all, answer) = ids(&template("<|a|>"), "Wat");
    assert_eq!((all, answer), (vec![11, 2, 4, 5, 6, 1], vec![4, 5, 6, 1]));
    // A space before an answer belongs to its first token.
    let (all, answer) = ids(&template(" "), "Wat");
    assert_eq!((all, answer), (vec![11, 10, 5, 6, 1], vec![10, 5, 6, 1]));
}

/// What only context is has no part in a loss.
#[test]
fn an_answer_that_does_not_count_is_context() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    configure(dir.path(), |c| {
        c.as_object_mut().unwrap().remove("chat_template");
    });
    let codec = TextCodec::load(dir.path()).unwrap();
    let mut row = conversation();
    row.history[2].unscored = true;
    let (ids, answers) = codec.row_ids(&row).unwrap();
    assert_eq!(shown(&codec, &ids), "Be kind.\nRain?\nWater.<|end|>Friend?\nDear.<|end|>");
    assert_eq!(answers.len(), 1);
    assert_eq!(shown(&codec, &ids[answers[0].clone()]), "Dear.<|end|>");
}

/// A token that no text needs may lie behind the model's vocabulary; one that a text needs may not.
#[test]
fn a_token_behind_the_vocabulary_is_refused_where_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["added_tokens"].as_array_mut().unwrap().push(json!({"id": 300, "content": "<pad>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}));
    fs::write(&path, json.to_string()).unwrap();
    let mut codec = TextCodec::load(dir.path()).unwrap();
    assert_eq!(codec.vocab(), 301);
    codec.limit_vocab(300).unwrap();
    codec.prompt_ids("What is rain?").unwrap();
    let e = codec.prompt_ids("a <pad> b").unwrap_err().to_string();
    assert!(e.contains("token id 300") && e.contains("ends at 300"), "{e}");
    assert!(codec.limit_vocab(1).unwrap_err().to_string().contains("ends answers"));
}

/// A template is told a fixed day, or the one in the model's folder.
#[test]
fn the_day_does_not_depend_on_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let template =
        "{{ strftime_now('%d %B %Y, %A %H:%M') }}{% for m in messages %}{{ m.content }}{% endfor %}";
    configure(dir.path(), |c| c["chat_template"] = json!(template));
    let day = || {
        let codec = TextCodec::load(dir.path()).unwrap();
        shown(&codec, &codec.prompt_ids("|x").unwrap())
    };
    assert_eq!(day(), "26 July 2024, Friday 00:00|x");
    fs::write(dir.path().join("chat_date.json"), r#"{"date": "2026-01-31"}"#).unwrap();
    assert_eq!(day(), "31 January 2026, Saturday 00:00|x");
    fs::write(dir.path().join("chat_date.json"), r#"{"date": "tomorrow"}"#).unwrap();
    assert!(load_error(dir.path()).contains("chat_date.json"));
}

/// What the expressions of a template give when Python renders it.
#[test]
fn templates_may_call_the_methods_of_pythons_values() {
    let cases = [
        ("'a b c'.split(' ', 1)|join('|')", "a|b c"),
        ("'a b c'.rsplit(' ', 1)|join('|')", "a b|c"),
        ("'see rain'.title() + 'see'.capitalize()", "See RainSee"),
        ("'see rain'.find('rain')", "4"),
        ("'aba'.count('a')", "2"),
        ("'|'.join(['a', 'b'])", "a|b"),
        ("'a\\nb'.splitlines()|length", "2"),
        ("'yes' if '12'.isdigit() and not '1b'.isdigit() else 'no'", "yes"),
        ("'</think>x'.removeprefix('</think>') + 'xy'.removesuffix('y')", "xx"),
        ("'{}-{}'.format('a', 'b')", "a-b"),
        ("'aaa'.replace('a', 'b', 2)", "bba"),
        ("'yes' if 'rain'.startswith(('x', 'ra')) and 'rain'.endswith('in') else 'no'", "yes"),
        ("' x '.strip() + '..x'.lstrip('.') + 'x..'.rstrip('.')", "xxx"),
        ("{'a': 1}.get('b', 2)", "2"),
        ("{'a': 1}.items()|length", "1"),
        ("'%s is %05.2f' % ('pi', 3.14159)", "pi is 03.14"),
        ("'x' + '%s' % 'a'|upper", "xA"),
        ("true", "True"),
        ("none", "None"),
        ("[1, 'a', true]", "[1, 'a', True]"),
        ("{'a': none}", "{'a': None}"),
        ("true|string", "True"),
        ("{'a': [1, '<e>'], 'b': true}|tojson", "{\"a\": [1, \"<e>\"], \"b\": true}"),
        ("{'b': {'d': 1, 'c': 2}, 'a': []}|tojson", "{\"b\": {\"d\": 1, \"c\": 2}, \"a\": []}"),
        ("{'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true)", "{\"a\": {\"c\": 2, \"d\": 1}, \"b\": 1}"),
        ("dict(z=1, a=none)|tojson", "{\"z\": 1, \"a\": null}"),
        ("{'b': 1, 'a': 2}|join(',')", "b,a"),
        ("{1: true, none: 2}|tojson", "{\"1\": true, \"null\": 2}"),
        ("messages[0]|tojson", "{\"role\": \"user\", \"content\": \"x\"}"),
        ("[1, {'a': 2}]|tojson(indent=2)", "[\n  1,\n  {\n    \"a\": 2\n  }\n]"),
        ("['é', []]|tojson(ensure_ascii=true, separators=(',', ':'))", "[\"\\u00e9\",[]]"),
        ("'a b'.partition(' ')|join('|') + 'a'.rpartition('x')|join('|')", "a| |b||a"),
        ("'-7'.zfill(4) + 'a'.ljust(3, '.') + 'a'.center(4, '-')", "-007a..-a--"),
        ("' a  b '.split()|join('|')", "a|b"),
    ];
    for (expression, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        tokenizer(dir.path());
        let template = format!(
            "{{{{- {expression} }}}}{{%- for m in messages %}}{{{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}}}\
             {{%- if loop.first %}}{{%- continue %}}{{%- endif %}}{{%- break %}}{{%- endfor %}}\
             {{%- if add_generation_prompt %}}{{{{- '<|assistant|>' }}}}{{%- endif %}}"
        );
        fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        let codec = TextCodec::load(dir.path()).map_err(|e| format!("{expression}: {e}")).unwrap();
        let ids = codec.prompt_ids("x").unwrap();
        let shown = shown(&codec, &ids);
        assert_eq!(shown, format!("{expected}<|user|>x<|end|><|assistant|>"), "{expression}");
    }
}

#[test]
fn a_template_comes_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    for template in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) ~ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(i=0) %}{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% set ns.i = ns.i + 1 %}{% endfor %}{% endfor %}{% endfor %}{{ ns.i }}",
    ] {
        configure(dir.path(), |config| config["chat_template"] = json!(template));
        let error = load_error(dir.path());
        assert!(error.contains("chat template"), "{error}");
    }
    // The template library panics on this one.
    configure(dir.path(), |config| config["chat_template"] = json!("{{ [][::-1] }}"));
    assert!(load_error(dir.path()).contains("cannot execute it"));
    let long = "a".repeat((1 << 20) + 1);
    configure(dir.path(), |config| config["chat_template"] = json!(long));
    assert!(load_error(dir.path()).contains("the chat template has 1.0 MB"));
}

/// What a template writes has a largest size, and so have the files.
#[test]
fn a_template_that_writes_without_end_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let endless = "{% for i in range(9000) %}{% for j in range(90) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}{% endfor %}";
    fs::write(dir.path().join("chat_template.jinja"), endless).unwrap();
    let e = load_error(dir.path());
    assert!(e.contains("chat_template.jinja") && e.contains("writes far more"), "{e}");
    fs::write(dir.path().join("chat_template.jinja"), " ".repeat(2 << 20)).unwrap();
    let e = load_error(dir.path());
    assert!(e.contains("has 2097152 bytes, but at most 1048576 are read"), "{e}");
}

#[cfg(unix)]
#[test]
fn a_file_of_a_model_that_is_a_fifo_is_refused_by_name() {
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let dir = tempfile::tempdir().unwrap();
        tokenizer(dir.path());
        let _ = fs::remove_file(dir.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
        let e = load_error(dir.path());
        assert!(e.contains(name) && e.contains("is a FIFO, not a regular file"), "{e}");
    }
}

/// The tokenizer library panics on a tokenizer.json that is damaged where it takes the text for granted.
#[test]
fn a_tokenizer_that_the_library_fails_on_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(dir.path());
    let path = dir.path().join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        let codec = TextCodec::load(dir.path());
        let e = codec.and_then(|codec| codec.text_ids("What is rain?")).unwrap_err().to_string();
        assert!(e.contains("tokenizer.json"), "{e}");
        e
    };
    let at = text.find("\"decoder\":").unwrap() + "\"decoder\":".len();
    let e = refused(&format!("{}{{\"type\": \"Byte\nLevel\"}}, {}", &text[..at], &text[at..]));
    assert!(e.contains("cannot work with this tokenizer"), "{e}");
    // An id behind the vocabulary would be read behind the end of the embedding.
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["post_processor"] = json!({"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "X", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"X": {"id": "X", "ids": [4_000_000_000u32], "tokens": ["X"]}}});
    let e = refused(&json.to_string());
    assert!(e.contains("4000000000") && e.contains("ends at 300"), "{e}");
}
