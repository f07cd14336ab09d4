"""Presence over Socket.IO: the contract that clients see, and nothing that decides who is online."""
