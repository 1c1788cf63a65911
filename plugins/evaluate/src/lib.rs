//! Stage kind evaluate: loss, perplexity, BLEU, ROUGE, selection accuracy
