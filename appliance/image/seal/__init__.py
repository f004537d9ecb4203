"""What stays in a root file system, and the initrd out of it: a program of the build's tools tree.

In: a populated tree and rules files (:mod:`~appliance.image.seal.rules`). Out: the tree with nothing in it that no
rule names (:mod:`~appliance.image.seal.tree`), finished so that its bytes are the same anywhere
(:mod:`~appliance.image.seal.finish`); and the initrd (:mod:`~appliance.image.seal.program`). It runs inside the
build as mkosi's last step before the file system is made, where only Python's standard library is at hand, so this
package imports nothing else, not even of this project.
"""
