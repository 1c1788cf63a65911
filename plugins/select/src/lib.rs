//! Stage kind select: the nearest personalized model, or a mix, or none
