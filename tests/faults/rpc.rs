//! Hostile and silent peers of both sides of RPC.
