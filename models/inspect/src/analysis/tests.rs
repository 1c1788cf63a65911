//! The shapes of published templates, and templates that look at what a message says.

use super::judge;

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
    {{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const LLAMA_2: &str = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
    {% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
    {% set system_message = false %}{% endif %}{% for message in loop_messages %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
    {% if loop.index0 == 0 and system_message != false %}\
    {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
    {% else %}{% set content = message['content'] %}{% endif %}\
    {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

const LLAMA_3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
    {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}\
    {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

const LLAMA_3_2: &str = "{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- system_message }}{{- '<|eot_id|>' }}
{%- for message in messages %}
  {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
  {%- elif 'tool_calls' in message %}
    {%- if not message.tool_calls|length == 1 %}{{- raise_exception('one tool call only') }}{%- endif %}
    {%- set tool_call = message.tool_calls[0].function %}{{- tool_call.arguments | tojson }}
  {%- elif message.role == 'tool' or message.role == 'ipython' %}
    {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
    {%- else %}{{- message.content }}{%- endif %}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}";

const ZEPHYR: &str = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n\
    {{ '<|user|>\\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n\
    {{ '<|system|>\\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n\
    {{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n\
    {% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";

const GEMMA: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}\
    {% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}\
    {% else %}{% set role = message['role'] %}{% endif %}\
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}";

const GEMMA_3: &str = "{%- for message in messages -%}{{ '<start_of_turn>' + message['role'] + '\\n' }}\
    {%- if message['content'] is string -%}{{ message['content'] | trim }}\
    {%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}\
    {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}\
    {%- endif -%}{%- endfor -%}{%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}\
    {{ '<end_of_turn>\\n' }}{%- endfor -%}";

/// With the branches for tools, which no message here has.
const QWEN_2_5: &str = "{%- if tools %}{{- '<|im_start|>system\\n' }}\
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}\
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}\
    {%- else %}{%- if messages[0]['role'] == 'system' %}\
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endif %}\
    {%- for message in messages %}\
    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\
    {%- elif message.role == \"assistant\" %}{{- '<|im_start|>' + message.role }}\
    {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}\
    {%- for tool_call in message.tool_calls %}{{- tool_call.name }}{%- endfor %}\
    {%- elif message.role == \"tool\" %}\
    {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != \"tool\") %}{{- '<|im_start|>user' }}{%- endif %}\
    {{- message.content }}{%- endif %}{%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

const MISTRAL: &str = "{%- if messages[0][\"role\"] == \"system\" %}{%- set system_message = messages[0][\"content\"] %}\
    {%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}\
    {%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}\
    {%- set ns = namespace() %}{%- set ns.index = 0 %}\
    {%- for message in loop_messages %}{%- if not (message.role == \"tool\" or message.tool_calls is defined) %}\
    {%- if (message[\"role\"] == \"user\") != (ns.index % 2 == 0) %}{{- raise_exception(\"alternate\") }}{%- endif %}\
    {%- set ns.index = ns.index + 1 %}{%- endif %}{%- endfor %}{{- bos_token }}\
    {%- for message in loop_messages %}{%- if message[\"role\"] == \"user\" %}\
    {%- if loop.last and system_message is defined %}{{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\
    {%- else %}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}{%- endif %}\
    {%- elif message[\"role\"] == \"assistant\" %}{{- \" \" + message[\"content\"]|trim + eos_token}}{%- endif %}{%- endfor %}";

/// Reasoning is cut out of what the assistant said.
const QWEN_3: &str = "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\
    {%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\
    {%- if ns.multi_step_tool and message.role == \"user\" and not(message.content.startswith('<tool_response>')) %}\
    {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}\
    {%- for message in messages %}{%- set content = message.content %}{%- set reasoning_content = '' %}\
    {%- if '</think>' in message.content %}\
    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{%- endfor %}";

#[test]
fn published_templates_treat_all_content_alike() {
    let shapes = [
        ("ChatML", CHATML),
        ("Llama 2", LLAMA_2),
        ("Llama 3", LLAMA_3),
        ("Llama 3.2", LLAMA_3_2),
        ("Zephyr", ZEPHYR),
        ("Gemma", GEMMA),
        ("Gemma 3", GEMMA_3),
        ("Qwen 2.5", QWEN_2_5),
        ("Mistral", MISTRAL),
    ];
    for (name, template) in shapes {
        assert_eq!(judge(template), None, "{name}");
    }
    let others = [
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{{ loop.previtem.role }}{{ loop.cycle('a', 'b') }}{{ m.get('content') }}{% endfor %}",
        "{% macro turn(m, end='') %}{{ m.role }}: {{ m.content | trim }}{{ end }}{% endmacro %}\
         {% for m in messages %}{{ turn(m) }}{% endfor %}{{ turn(messages[0], end='!') }}",
        "{% set text %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ text }}",
        "{% set messages = [{'role': 'system', 'content': 'be kind'}] + messages %}\
         {% for m in messages %}{{ m.content }}{% endfor %}",
        "{% with c = messages[0].content %}{{ c }}{% endwith %}{{ messages | map(attribute='role') | join(' ') }}",
        "{{ 'a' if messages | length > 3 else 'b' }}{{ messages[-1].content ~ '!' }}",
    ];
    for template in others {
        assert_eq!(judge(template), None, "{template}");
    }
}

#[test]
fn reasoning_that_is_cut_out_is_a_condition() {
    assert!(judge(QWEN_3).is_some());
}

/// Each of these turns something that a message says into what the template writes.
#[test]
fn a_template_that_looks_at_content_is_found() {
    let each = |inner: &str| format!("{{% for m in messages %}}{inner}{{% endfor %}}");
    let inner = [
        "{% if m.content %}x{% endif %}",
        "{% if m['content'][7] == 'a' %}x{% endif %}",
        "{% for c in m.content %}x{% endfor %}",
        "{{ m.content | length }}",
        "{{ m.content[3:9] }}",
        "{{ m.content | replace('a', 'aaaa') }}",
        "{{ m.content | upper }}",
        "{{ m.content | trim('abc') }}",
        "{{ m.content.strip('abc') }}",
        "{{ m.content.split('a')[0] }}",
        "{{ 'x' if 'a' in m.content }}",
        "{{ 'x' if m.content == 'a' }}",
        "{{ 'x' if m.content < 'a' else 'y' }}",
        "{{ m.content is eq('a') }}",
        "{{ m.content * 3 }}",
        "{{ {'a': 'x'}[m.content] }}",
        "{{ {m.content: 'x'} | length }}",
        "{{ 'x' * (m.content == 'a') }}",
        "{{ range(m.content | length) | join }}",
        "{{ m.content or 'empty' }}",
        "{{ m.content and 'full' }}",
        "{% if not m.content %}x{% endif %}",
        "{% if loop.changed(m.content) %}x{% endif %}",
        "{% if loop.previtem.content %}x{% endif %}",
        "{{ m | tojson }}",
        "{{ m.content | tojson | length }}",
        "{{ m.items() | list }}",
        "{{ m.get('content') | length }}",
        "{{ raise_exception(m.content) }}",
        "{{ debug() }}",
        "{% set c = m.content %}{% if c %}x{% endif %}",
        "{% set c %}{{ m.content }}{% endset %}{% if c %}x{% endif %}",
        "{% filter upper %}{{ m.content }}{% endfilter %}",
        "{% with c = m.content %}{{ c | length }}{% endwith %}",
        "{% for k in m %}{% if m[k] == 'a' %}x{% endif %}{% endfor %}",
        "{% autoescape true %}{{ m.content }}{% endautoescape %}",
        "{{ 'x' if [m.content] | length }}",
        "{{ m.content is string and m.content is startingwith('a') }}",
    ];
    let mut whole: Vec<String> = inner.iter().map(|i| each(i)).collect();
    whole.extend(
        [
            "{% for m in messages if m.content %}x{% endfor %}",
            "{{ messages | selectattr('content', 'equalto', 'a') | list | length }}",
            "{{ messages | selectattr('content') | list | length }}",
            "{{ messages | map(attribute='content') | join }}",
            "{{ messages | map('length') | join }}",
            "{{ messages | tojson }}",
            "{{ messages | sort(attribute='content') | first }}",
            "{{ messages == [] }}",
            "{{ 'x' if {'role': 'user', 'content': 'a'} in messages }}",
            // Through a variable that is set later in the text, but earlier in the next turn.
            "{% set ns = namespace(c='') %}{% for m in messages %}{% if ns.c %}x{% endif %}{% set ns.c = m.content %}{% endfor %}",
            // A namespace of two names.
            "{% set a = namespace(c='') %}{% set b = a %}{% set b.c = messages[0].content %}{% if a.c %}x{% endif %}",
            // Through macros, by argument, result, default, another name or the name of a function.
            "{% macro f(c) %}{% if c %}x{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
            "{% macro f(c) %}{{ c }}{% endmacro %}{{ f(messages[0].content) | length }}",
            "{% macro f() %}{{ messages[0].content }}{% endmacro %}{% if f() %}x{% endif %}",
            "{% macro f(c=messages[0].content) %}{{ c | length }}{% endmacro %}{{ f() }}",
            "{% macro f() %}{{ messages[0].content }}{% endmacro %}{% set range = f %}{% if range() %}x{% endif %}",
            "{% macro f() %}x{% endmacro %}{% macro g() %}{{ messages[0].content }}{% endmacro %}\
             {% set f = g %}{% if f() | length > 3 %}x{% endif %}",
            "{% macro g() %}{{ messages[0].content }}{% endmacro %}{% macro h(range=g) %}\
             {% if range() %}x{% endif %}{% endmacro %}{{ h() }}",
            "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ messages[0].content }}{% endcall %}",
            // A message of the template's own making has keys that a given one lacks.
            "{% set m = {'role': 'a', 'content': messages[0].content, 'x': 1} %}\
             {% if m.x %}{% if m.content %}x{% endif %}{% endif %}",
            "{% for m in [{'x': 1, 'content': ''}] + messages %}{% if m.x %}{{ messages[0].content | length }}{% endif %}{% endfor %}",
            "{% set l = messages %}{% set l = [{'x': 1}] %}{% for m in l %}{% if m.x %}{{ messages[0].content | length }}\
             {% endif %}{% endfor %}",
            "{% for m in (messages if false else [{'x': 1}]) %}{% if m.x %}{{ messages[0].content | length }}{% endif %}{% endfor %}",
            // What is known of one message is not known of another.
            "{% for m in messages %}{% if m.role == 'user' %}{% for m in messages %}{% if m.role == 'assistant' %}\
             {{ m.content | length }}{% endif %}{% endfor %}{% endif %}{% endfor %}",
            "{% for m in messages %}{% if m.role == 'user' %}{% set m = messages[1] %}{% if m.role == 'assistant' %}\
             {{ m.content | length }}{% endif %}{% endif %}{% endfor %}",
            "{% if tools is none %}{{ messages[0].content | length }}{% endif %}",
            // Attributes are paths: what begins with the content leads into it.
            "{{ messages | map(attribute='content.7') | list }}",
            "{% for m in messages | selectattr('content.7', 'eq', 'a') %}x{% endfor %}",
            "{% for m in messages | rejectattr('content.0') %}x{% endfor %}",
            // What is called as the item of a dictionary.
            "{% macro f() %}{{ messages[0].content }}{% endmacro %}{% set d = {'f': f} %}{{ d.f() | length }}",
            "{% set d = {'n': namespace} %}{% set ns = d.n() %}{% set ns.x = messages[0].content %}{{ ns.x | length }}",
            "{% set l = [range] %}{{ l[0](3) }}",
            "{% include messages[0].content %}",
            "{% for m in messages recursive %}{{ loop(m.content) }}{% endfor %}",
            "{% if messages[0].content %}",
            "{% for a, b in messages %}{{ b }}{% endfor %}",
            "{% for m in messages %}{{ m.content.strip(' ') }}{% endfor %}",
            "{% for m in messages %}{{ m.content | tojson(ensure_ascii=true) }}{% endfor %}",
        ]
        .map(str::to_owned),
    );
    for template in whole {
        assert!(judge(&template).is_some(), "{template}");
    }
}

/// What each of these templates does where something was assumed of a name that is not so when it runs.
#[test]
fn a_name_means_one_thing_in_all_of_a_template() {
    const EVIL: &str = "{% set hit = messages[0].content[2] == 'a' %}";
    let text = "decides a condition";
    let cases = [
        // What a name begins with counts, whatever is assigned later.
        ("{% if eos_token %}EVIL{% endif %}{% set eos_token = tools %}", "looked into"),
        ("{% if bos_token %}EVIL{% endif %}{% set bos_token = tools %}", "looked into"),
        (
            "{% if add_generation_prompt %}EVIL{% endif %}{% set add_generation_prompt = tools %}",
            "looked into",
        ),
        ("{% if range %}EVIL{% endif %}{% set range = tools %}", "`range` is assigned to"),
        (
            "{% set ns = namespace(flag=1) %}{% if ns.flag %}EVIL{% endif %}{% set ns.flag = tools %}",
            "looked into",
        ),
        ("{% set ns = namespace(c=messages[0].content) %}{% if ns.c %}x{% endif %}{% set ns.c = '' %}", text),
        (
            "{% if eos_token.content is string %}{% else %}EVIL{% endif %}{% set eos_token = messages[0] %}",
            "looked into",
        ),
        ("{% if tools %}EVIL{% endif %}{% set tools = 1 %}", "looked into"),
        (
            "{% if tools.content is string %}{% else %}EVIL{% endif %}{% for tools in messages %}{% endfor %}",
            "looked into",
        ),
        // What may be a message or none is no message.
        (
            "{% set m = tools %}{% if m.content is string %}{% else %}EVIL{% endif %}{% set m = messages[0] %}",
            "looked into",
        ),
        (
            "{% set m = tools and messages[0] %}{% if m.content is string %}{% else %}EVIL{% endif %}",
            "looked into",
        ),
        (
            "{% set m = messages[0] if tools %}{% if m.content is string %}{% else %}EVIL{% endif %}",
            "looked into",
        ),
        (
            "{% set m = messages[0].get('x') %}{% if m.content is string %}{% else %}EVIL{% endif %}{% set m = messages[0] %}",
            "looked into",
        ),
        (
            "{% macro f(m=tools) %}{% if m.content is string %}{% else %}EVIL{% endif %}{% endmacro %}{{ f() }}{{ f(messages[0]) }}",
            "a default that holds content",
        ),
        // A function is one wherever its name stands, and a macro too.
        (
            "{% set x = {'d': debug} %}{% set s = x.d() %}{% set hit = 'Q4a' in s %}{% set debug = 1 %}",
            "`debug` is assigned to",
        ),
        ("{% set s = debug() %}{% set hit = 'Q4a' in s %}{% macro debug() %}{% endmacro %}", "named `debug`"),
        (
            "{% set s = strftime_now(messages[0].content) %}{% macro strftime_now(x) %}{% endmacro %}",
            "named `strftime_now`",
        ),
        ("{% set d = dict(c=messages[0].content) %}{% macro dict(c) %}{% endmacro %}", "named `dict`"),
        (
            "{% set ns = namespace(x=0) %}{% macro f(a, n) %}{{ a }}{% endmacro %}\
             {% macro f(b, n) %}{% if b[2] == 'a' %}{% set n.x = 1 %}{% endif %}{% endmacro %}\
             {% set q = f(messages[0].content, ns) %}",
            "two macros are named `f`",
        ),
        ("{% macro f() %}{% endmacro %}{% set f = 1 %}", "`f` is a macro, and assigned to"),
        ("{% macro f() %}{% endmacro %}{% for f in [1] %}{% endfor %}", "`f` is a macro, and assigned to"),
        ("{% macro f(g) %}{% endmacro %}{% macro g() %}{% endmacro %}", "`g` is a macro, and assigned to"),
        ("{% macro messages() %}{% endmacro %}", "named `messages`"),
        ("{% for loop in messages %}{% endfor %}", "assign"),
        ("{% with self = 1 %}{% endwith %}", "assign"),
        ("{% macro f(caller) %}{{ caller }}{% endmacro %}", "assign"),
        ("{% set super %}x{% endset %}", "assign"),
        ("{{ messages[0].content | tojson | tojson }}", "as JSON twice"),
        // A text, not a list.
        ("{{ (messages ~ messages) | length }}", "a whole message is written"),
        ("{% for c in messages ~ '' %}{{ c.role }}{% endfor %}", "a whole message is written"),
        ("{% set x = messages[0].content | tojson %}{{ (x ~ '!') | tojson }}", "as JSON twice"),
        ("{% set x %}{{ messages[0].content | tojson }}{% endset %}{{ x | tojson }}", "as JSON twice"),
    ];
    for (template, reason) in cases {
        let why = judge(&template.replace("EVIL", EVIL));
        assert!(why.as_deref().is_some_and(|why| why.contains(reason)), "{template}: {why:?}");
    }
}
