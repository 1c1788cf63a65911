//! The corpus of the demonstration model: hand-written facts and phrases, composed with a seed
