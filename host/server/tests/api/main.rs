//! The HTTP surface, request by request, in front of a real host with its real store.

mod described;
mod events;
mod files;
mod health;
mod house;
mod keys;
mod refusals;
mod serving;
mod sessions;
mod tools;
mod turns;
mod values;
