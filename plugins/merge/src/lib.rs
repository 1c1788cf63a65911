//! Stage kind merge: adapters exactly or by QR-core SVD, full weights streamed
