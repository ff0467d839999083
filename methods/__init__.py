"""Fine-tuning methods, one paper a file; this table holds strings only, so that naming a method imports nothing."""

BUILTIN: dict[str, str] = {
    "full": "methods.full:FullFineTuning",
    "head": "methods.full:HeadOnly",
    "bitfit": "methods.bitfit:BitFit",
    "houlsby_adapter": "methods.adapter:HoulsbyAdapter",
    "pfeiffer_adapter": "methods.adapter:PfeifferAdapter",
    "parallel_adapter": "methods.adapter:ParallelAdapter",
    "prefix_tuning": "methods.prefix:PrefixTuning",
    "p_tuning_v2": "methods.prefix:PTuningV2",
    "prompt_tuning": "methods.prompt:PromptTuning",
    "p_tuning": "methods.prompt:PTuning",
    "lora": "methods.lora:LoRA",
    "rslora": "methods.lora:RsLoRA",
    "lora_plus": "methods.lora:LoRAPlus",
    "lora_fa": "methods.lora_fa:LoRAFA",
    "dora": "methods.dora:DoRA",
    "pissa": "methods.pissa:PiSSA",
    "adalora": "methods.adalora:AdaLoRA",
    "vera": "methods.vera:VeRA",
    "ia3": "methods.ia3:IA3",
    "lst": "methods.lst:LadderSideTuning",
}
"""Each runs without a configuration."""
BRIDGES: dict[str, str] = {"peft": "methods.peft:Peft"}
"""Other libraries' methods, each of which a configuration has to name."""
