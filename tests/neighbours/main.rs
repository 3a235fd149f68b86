//! Hostile callers and neighbours: other users of the machine who have prepared something where ours belongs, callers that
//! send what they like, and what ssh gets to see. Real processes; where another user is needed, a real one.

#[path = "../support/mod.rs"]
mod support;

mod folders;
mod planted;
mod requests;
mod ssh;
