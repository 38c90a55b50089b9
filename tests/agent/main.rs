//! The agent as its users meet it: the command, and the socket of one that runs.

mod cli;
mod socket;
