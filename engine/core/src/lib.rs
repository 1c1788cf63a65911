//! The run as a pure state machine: events, ready set, claims, retries, residency
