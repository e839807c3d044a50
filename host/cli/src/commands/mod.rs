//! One file per command or family of commands.

pub(crate) mod admin;
pub(crate) mod approve;
pub(crate) mod authority;
pub(crate) mod backup;
pub(crate) mod changes;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod history;
pub(crate) mod housekeep;
pub(crate) mod policy;
pub(crate) mod reference;
pub(crate) mod replay;
pub(crate) mod rotate;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod tool;
pub(crate) mod tool_build;
pub(crate) mod tool_call;
pub(crate) mod tool_dev;
pub(crate) mod tool_new;
pub(crate) mod tool_test;
pub(crate) mod webhook;
