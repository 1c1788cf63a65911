//! Stage kinds probe, embed and decompose: a model's style in words and numbers
