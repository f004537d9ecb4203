"""The worker: links to gateways, requests run on the model server, payments kept, payouts asked for."""
