//! Where the agent's findings leave it.
