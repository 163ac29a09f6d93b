//! Owns the chat formats that this program knows by name: the names are llama.cpp's. BOS is the tokenizer's business.

/// Names and templates.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    ("chatml", CHATML),
    (
        "chatglm4",
        "[gMASK]<sop>{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    ("command-r", COMMAND_R),
    ("deepseek", DEEPSEEK),
    ("deepseek2", DEEPSEEK2),
    ("deepseek3", DEEPSEEK3),
    ("exaone3", EXAONE3),
    (
        "falcon3",
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    ("gemma", GEMMA),
    ("gpt-oss", GPT_OSS),
    (
        "granite",
        "{% for m in messages %}{{ '<|start_of_role|>' ~ m.role ~ '<|end_of_role|>' ~ m.content ~ '<|end_of_text|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    ),
    ("kimi-k2", KIMI_K2),
    ("llama2", LLAMA2),
    ("llama2-sys", LLAMA2_SYS),
    ("llama2-sys-bos", LLAMA2_SYS_BOS),
    ("llama2-sys-strip", LLAMA2_SYS_STRIP),
    (
        "llama3",
        "{% for m in messages %}{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ m.content | trim ~ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "llama4",
        "{% for m in messages %}{{ '<|header_start|>' ~ m.role ~ '<|header_end|>\\n\\n' ~ m.content | trim ~ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}{% endif %}",
    ),
    ("mistral", MISTRAL_V7_TEKKEN),
    ("mistral-v1", MISTRAL_V1),
    ("mistral-v3", MISTRAL_V3),
    ("mistral-v3-tekken", MISTRAL_V3_TEKKEN),
    ("mistral-v7", MISTRAL_V7),
    ("mistral-v7-tekken", MISTRAL_V7_TEKKEN),
    ("monarch", MONARCH),
    ("openchat", OPENCHAT),
    (
        "phi3",
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "phi4",
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '<|im_sep|>' ~ m.content ~ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    ),
    (
        "seed_oss",
        "{% for m in messages %}{{ '<seed:bos>' ~ m.role ~ '\\n' ~ (m.content | trim if m.role == 'assistant' else m.content) ~ '<seed:eos>' }}{% endfor %}{% if add_generation_prompt %}{{ '<seed:bos>assistant\\n' }}{% endif %}",
    ),
    ("vicuna", VICUNA),
    ("vicuna-orca", VICUNA_ORCA),
    (
        "zephyr",
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ eos_token ~ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
];

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const COMMAND_R: &str = "{% set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} %}{% for m in messages %}\
                         {{ '<|START_OF_TURN_TOKEN|><|' ~ names.get(m.role, 'USER') ~ '_TOKEN|>' ~ m.content | trim ~ '<|END_OF_TURN_TOKEN|>' }}\
                         {% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}";

const DEEPSEEK: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\
                        {% elif m.role == 'user' %}{{ '### Instruction:\\n' ~ m.content ~ '\\n' }}\
                        {% else %}{{ '### Response:\\n' ~ m.content ~ '\\n<|EOT|>\\n' }}{% endif %}{% endfor %}\
                        {% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}";

const DEEPSEEK2: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}\
                         {% elif m.role == 'user' %}{{ 'User: ' ~ m.content ~ '\\n\\n' }}\
                         {% else %}{{ 'Assistant: ' ~ m.content ~ '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
                         {% if add_generation_prompt %}Assistant:{% endif %}";

const DEEPSEEK3: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}\
                         {% elif m.role == 'user' %}{{ '<｜User｜>' ~ m.content }}\
                         {% else %}{{ '<｜Assistant｜>' ~ m.content ~ '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
                         {% if add_generation_prompt %}<｜Assistant｜>{% endif %}";

const EXAONE3: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ '[|system|]' ~ m.content | trim ~ '[|endofturn|]\\n' }}\
                       {% elif m.role == 'user' %}{{ '[|user|]' ~ m.content | trim ~ '\\n' }}\
                       {% else %}{{ '[|assistant|]' ~ m.content | trim ~ '[|endofturn|]\\n' }}{% endif %}{% endfor %}\
                       {% if add_generation_prompt %}[|assistant|]{% endif %}";

/// Gemma knows no system role: what it says stands before the first question.
const GEMMA: &str = "{% set ns = namespace(system='') %}{% for m in messages %}\
                     {% if m.role == 'system' %}{% set ns.system = m.content | trim ~ '\\n\\n' %}{% else %}\
                     {{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else 'user') ~ '\\n' }}\
                     {% if m.role != 'assistant' %}{{ ns.system }}{% set ns.system = '' %}{% endif %}\
                     {{ m.content | trim ~ '<end_of_turn>\\n' }}{% endif %}{% endfor %}\
                     {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

const GPT_OSS: &str = "{% for m in messages %}{% if m.role == 'assistant' %}\
                       {{ '<|start|>assistant<|channel|>final<|message|>' ~ m.content ~ '<|end|>' }}\
                       {% else %}{{ '<|start|>' ~ m.role ~ '<|message|>' ~ m.content ~ '<|end|>' }}{% endif %}{% endfor %}\
                       {% if add_generation_prompt %}<|start|>assistant{% endif %}";

const KIMI_K2: &str = "{% for m in messages %}\
                       {{ '<|im_' ~ m.role ~ '|>' ~ m.role ~ '<|im_middle|>' ~ m.content ~ '<|im_end|>' }}{% endfor %}\
                       {% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}";

const LLAMA2: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                      {% if m.role == 'assistant' %}{{ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                      {% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}\
                      {% if m.role == 'system' %}{{ m.content ~ '\\n' }}{% else %}{{ m.content ~ ' [/INST]' }}{% endif %}\
                      {% endif %}{% endfor %}";

const LLAMA2_SYS: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                          {% if m.role == 'assistant' %}{{ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                          {% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}\
                          {% if m.role == 'system' %}{{ '<<SYS>>\\n' ~ m.content ~ '\\n<</SYS>>\\n\\n' }}\
                          {% else %}{{ m.content ~ ' [/INST]' }}{% endif %}\
                          {% endif %}{% endfor %}";

const LLAMA2_SYS_BOS: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                              {% if m.role == 'assistant' %}{{ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                              {% if not ns.inside %}{{ ('' if loop.first else '<s>') ~ '[INST] ' }}{% set ns.inside = true %}{% endif %}\
                              {% if m.role == 'system' %}{{ '<<SYS>>\\n' ~ m.content ~ '\\n<</SYS>>\\n\\n' }}\
                              {% else %}{{ m.content ~ ' [/INST]' }}{% endif %}\
                              {% endif %}{% endfor %}";

const LLAMA2_SYS_STRIP: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                                {% if m.role == 'assistant' %}{{ m.content | trim ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                                {% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}\
                                {% if m.role == 'system' %}{{ '<<SYS>>\\n' ~ m.content | trim ~ '\\n<</SYS>>\\n\\n' }}\
                                {% else %}{{ m.content | trim ~ ' [/INST]' }}{% endif %}\
                                {% endif %}{% endfor %}";

const MISTRAL_V1: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                          {% if m.role == 'assistant' %}{{ ' ' ~ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                          {% if not ns.inside %}{{ ' [INST] ' }}{% set ns.inside = true %}{% endif %}\
                          {% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}{% else %}{{ m.content ~ ' [/INST]' }}{% endif %}\
                          {% endif %}{% endfor %}";

const MISTRAL_V3: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                          {% if m.role == 'assistant' %}{{ ' ' ~ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                          {% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}\
                          {% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}{% else %}{{ m.content ~ '[/INST]' }}{% endif %}\
                          {% endif %}{% endfor %}";

const MISTRAL_V3_TEKKEN: &str = "{% set ns = namespace(inside=false) %}{% for m in messages %}\
                                 {% if m.role == 'assistant' %}{{ m.content ~ '</s>' }}{% set ns.inside = false %}{% else %}\
                                 {% if not ns.inside %}[INST]{% set ns.inside = true %}{% endif %}\
                                 {% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}{% else %}{{ m.content ~ '[/INST]' }}{% endif %}\
                                 {% endif %}{% endfor %}";

const MISTRAL_V7: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' ~ m.content ~ '[/SYSTEM_PROMPT]' }}\
                          {% elif m.role == 'user' %}{{ '[INST] ' ~ m.content ~ '[/INST]' }}\
                          {% else %}{{ ' ' ~ m.content ~ '</s>' }}{% endif %}{% endfor %}";

const MISTRAL_V7_TEKKEN: &str = "{% for m in messages %}\
                                 {% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' ~ m.content ~ '[/SYSTEM_PROMPT]' }}\
                                 {% elif m.role == 'user' %}{{ '[INST]' ~ m.content ~ '[/INST]' }}\
                                 {% else %}{{ m.content ~ '</s>' }}{% endif %}{% endfor %}";

const MONARCH: &str = "{% for m in messages %}{{ ('' if loop.first else '<s>') ~ m.role ~ '\\n' ~ m.content ~ '</s>\\n' }}{% endfor %}\
                       {% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}";

const OPENCHAT: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '<|end_of_turn|>' }}\
                        {% else %}{{ 'GPT4 Correct ' ~ m.role | capitalize ~ ': ' ~ m.content ~ '<|end_of_turn|>' }}{% endif %}{% endfor %}\
                        {% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}";

const VICUNA: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content ~ '\\n\\n' }}\
                      {% elif m.role == 'user' %}{{ 'USER: ' ~ m.content ~ '\\n' }}\
                      {% else %}{{ 'ASSISTANT: ' ~ m.content ~ '</s>\\n' }}{% endif %}{% endfor %}\
                      {% if add_generation_prompt %}ASSISTANT:{% endif %}";

const VICUNA_ORCA: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ 'SYSTEM: ' ~ m.content ~ '\\n' }}\
                           {% elif m.role == 'user' %}{{ 'USER: ' ~ m.content ~ '\\n' }}\
                           {% else %}{{ 'ASSISTANT: ' ~ m.content ~ '</s>\\n' }}{% endif %}{% endfor %}\
                           {% if add_generation_prompt %}ASSISTANT:{% endif %}";
