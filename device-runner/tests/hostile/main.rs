//! A device against an engine that wants to know what is on it: the protocol, spoken from outside.

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod branches;
mod cache;
mod conditions;
mod contract;
mod disguise;
mod disk;
mod engine;
mod failures;
mod limits;
mod numbers;
mod owner;
mod phone;
mod proof;
mod rows;
mod time;
mod unresolved;
