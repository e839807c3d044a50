//! What may happen: manifests, grants, network rules, limits, agents, and how the layers narrow each other.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no async. A component *requests*
//! in its [`manifest::Manifest`], an org *grants* in a [`grant::Grant`], agents and the session may only
//! narrow, the host has ceilings; [`authority::Authority::compute`] is the intersection. [`approval::judge`] says which calls
//! wait for a person. Nothing here
//! enforces: the door out and the sandbox ask these types and obey.
#![forbid(unsafe_code)]

pub mod address;
pub mod agent;
pub mod approval;
pub mod authority;
pub mod bounded;
pub mod credential;
pub mod deadline;
pub mod expect;
pub mod explain;
pub mod files;
pub mod grant;
pub mod hook;
pub mod limits;
pub mod lint;
pub mod manifest;
pub mod network;
pub mod quantity;
pub mod refusal;
pub mod retention;
pub mod schedule;
pub mod spending;
pub mod suggest;
pub mod time_zone;
pub mod toml_text;
pub mod tool_pattern;
pub mod world;

mod text_serde;
