"""The room of money: tokens adjusted, counters, signed payments, the ledgers. Used by worker, gateway and client."""
