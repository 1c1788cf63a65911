//! Stage kind finetune: LoRA and full-parameter training on local data
