# ruff: noqa: E501 (templates are easier to read in their own lines)
"""Chat templates with the structure of published ones, in words of our own, and tokenizers that have their marks."""

from support.checkpoints import tokenizer

_LLAMA3_TURNS = (
    "{%- for turn in messages %}\n"
    "    {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}\n"
)
LLAMA_31 = (
    "{{- bos_token }}\n"
    "{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}\n"
    "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n"
    "{%- if date_string is not defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set intro = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n"
    "{%- else %}{%- set intro = '' %}{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
    "{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}\n"
    "{{- 'Knowledge until December 2023\\n' }}{{- 'Day: ' + date_string + '\\n\\n' }}{{- intro }}{{- '<|eot_id|>' }}\n"
) + _LLAMA3_TURNS
LLAMA_32 = LLAMA_31.replace(
    "{%- set date_string = '26 Jul 2024' %}",
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}",
)
_CHATML = (
    "{%- for turn in messages %}\n"
    "    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) or turn.role == 'assistant' %}\n"
    "        {{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)
QWEN_25 = (
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
    "{%- else %}{{- '<|im_start|>system\\nYou are of use.<|im_end|>\\n' }}{%- endif %}\n"
) + _CHATML
QWEN_3 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}\n"
    "{%- set ns = namespace(searching=true, last=messages|length - 1) %}\n"
    "{%- for turn in messages[::-1] %}\n"
    "    {%- set place = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.searching and turn.role == 'user' and turn.content is string and not"
    " (turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) %}\n"
    "        {%- set ns.searching = false %}{%- set ns.last = place %}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- for turn in messages %}\n"
    "    {%- set content = turn.content if turn.content is string else '' %}\n"
    "    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) %}\n"
    "        {{- '<|im_start|>' + turn.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
    "    {%- elif turn.role == 'assistant' %}\n"
    "        {%- set thought = '' %}\n"
    "        {%- if turn.reasoning_content is string %}{%- set thought = turn.reasoning_content %}\n"
    "        {%- elif '</think>' in content %}\n"
    "            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- endif %}\n"
    "        {%- if loop.index0 > ns.last and (loop.last or thought) %}\n"
    "            {{- '<|im_start|>' + turn.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content }}\n"
    "        {%- else %}{{- '<|im_start|>' + turn.role + '\\n' + content }}{%- endif %}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n"
    "{%- endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{% for turn in messages %}"
    "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if (turn['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = turn['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + turn['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}\n"
    "{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- if messages[0]['content'] is string -%}{%- set opening = messages[0]['content'] + '\\n\\n' -%}\n"
    "    {%- else -%}{%- set opening = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}\n"
    "    {%- set turns = messages[1:] -%}\n"
    "{%- else -%}{%- set opening = '' -%}{%- set turns = messages -%}{%- endif -%}\n"
    "{%- for turn in turns -%}\n"
    "    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('alternate!') }}{%- endif -%}\n"
    "    {%- set role = 'model' if turn['role'] == 'assistant' else turn['role'] -%}\n"
    "    {{ '<start_of_turn>' + role + '\\n' + (opening if loop.first else '') }}\n"
    "    {%- if turn['content'] is string -%}{{ turn['content'] | trim }}\n"
    "    {%- elif turn['content'] is iterable -%}\n"
    "        {%- for item in turn['content'] -%}{{ item['text'] | trim }}{%- endfor -%}\n"
    "    {%- else -%}{{ raise_exception('content?') }}{%- endif -%}\n"
    "    {{ '<end_of_turn>\\n' }}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}\n"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set intro = messages[0]['content'] %}{%- set rest = messages[1:] %}\n"
    "{%- else %}{%- set rest = messages %}{%- endif %}\n"
    "{%- set said = rest | selectattr('role', 'equalto', 'user') | list %}\n"
    "{{- bos_token }}\n"
    "{%- for turn in rest %}\n"
    "    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('user and assistant') }}{%- endif %}\n"
    "    {%- if turn['role'] == 'user' %}\n"
    "        {%- if loop.first and intro is defined %}{{- '[INST] ' + intro + '\\n\\n' + turn['content'] + ' [/INST]' }}\n"
    "        {%- else %}{{- '[INST] ' ~ turn['content'] ~ ' [/INST]' }}{%- endif %}\n"
    "    {%- elif turn['role'] == 'assistant' %}{{- ' ' + turn['content']|trim + eos_token }}\n"
    "    {%- else %}{{- raise_exception('only ' ~ said|length) }}{%- endif %}\n"
    "{%- endfor %}\n"
)
PHI_3 = (
    "{% for turn in messages %}{% if turn['role'] in ['system', 'user', 'assistant'] and turn['content'] %}"
    "{{'<|' + turn['role'] + '|>\n' + turn['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for turn in messages %}{% if turn['role'] == 'system' %}{{ '<|system|>\n' + turn['content'] + '\n' }}"
    "{% elif turn['role'] == 'user' %}{{ '<|user|>\n' + turn['content'] + '\n' }}"
    "{% elif turn['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n' + turn['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + turn['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
#: Further means that templates use: macros, namespaces, joins, filters with arguments, marks of what is generated.
WORKSHOP = (
    "{%- macro turn(role, text, mark='|') -%}<{{ mark }}{{ role }}{{ mark }}>{{ text|trim }}{{ caller() if caller else '' }}"
    "{%- endmacro -%}\n"
    "{%- set ns = namespace(count=0, seen=[]) -%}\n"
    "{% for m in messages if m.role != 'tool' %}\n"
    "    {%- set ns.count = ns.count + 1 %}{% set ns.seen = ns.seen + [m['role']] %}\n"
    "    {%- if loop.previtem is defined and loop.previtem.role == m.role %}{% continue %}{% endif %}\n"
    "  {% generation %}{{ turn(m.role, m.content) }}{% endgeneration %}\n"
    "  {{- '%s/%03d' % (loop.index, loop.length) }} {{ '{:>4}|{}'.format(loop.revindex, loop.cycle('a', 'b')) }}\n"
    "{% else %}none{% endfor %}\n"
    "{{ ns.seen | join(', ') }} {{ ns.seen|unique|map('upper')|list|tojson }} {{ messages[0]|tojson(indent=2) }}\n"
    "{{ messages|map(attribute='role')|reject('equalto', 'user')|first|default('-') }}{{ 2 ** 5 // 3 % 4 }}\n"
    "{{ {'a': [1, 2.5, none, true]}|tojson }}{% set block %}{{ messages|length }}{% endset %}{{ block * 2 }}\n"
    "{{ (messages[-1].content.split() | last or 'x')|replace('a', 'bb')|indent(2, true)|upper|capitalize }}\n"
    "{% call turn('end', ' e ') %}called{% endcall %}{{ range(3)|sum }}{{ dict(a=1).items()|list }}\n"
    "{{ messages[0].content[:5]|e }}{{ messages[0].content is mapping }}{{ 'x' in messages[0].content }}|{{ missing }}|"
)
PUBLISHED = {
    "llama 3.1": (LLAMA_31, "<|start_header_id|> <|end_header_id|> <|eot_id|>"),
    "llama 3.2": (LLAMA_32, "<|start_header_id|> <|end_header_id|> <|eot_id|>"),
    "qwen 2.5": (QWEN_25, "<|im_start|> <|im_end|> <|endoftext|>"),
    "qwen 3": (QWEN_3, "<|im_start|> <|im_end|> <|endoftext|> -<think> -</think>"),
    "gemma 2": (GEMMA_2, "<start_of_turn> <end_of_turn> -<b>"),
    "gemma 3": (GEMMA_3, "<start_of_turn> <end_of_turn> -<b>"),
    "mistral": (MISTRAL, "[INST] [/INST]"),
    "phi 3": (PHI_3, "<|end|>"),
    "olmo 2": (OLMO_2, ""),
    "workshop": (WORKSHOP, ""),
}


def published(name):
    """A tokenizer with a published template's structure and its marks; those after `-` are no special tokens."""
    from tokenizers import AddedToken

    template, marks = PUBLISHED[name]
    own = tokenizer()
    own.chat_template = template
    special = [AddedToken(mark, special=True, normalized=False) for mark in marks.split() if mark[0] != "-"]
    own.add_tokens(special, special_tokens=True)
    own.add_tokens([AddedToken(mark[1:], special=False, normalized=False) for mark in marks.split() if mark[0] == "-"])
    return own
