"""The light engine: the request handlers of ``transformers serve`` behind keys, limits and counters of our own.

For machines on which SGLang cannot run (no CPU build of its torch for their Python), above all a guest under software
emulation. Everything here runs in the engine environment's Python as a program, started by
:mod:`appliance.engine.process`; the appliance itself imports only :mod:`appliance.engine.light.body`'s limits in tests.
"""
