"""Google's machines: their vTPM, whose attestation key Google certifies together with the instance's name and place.

A vTPM of Google's is run by the host: what it says rests on Google, not on a processor. Beside a TDX quote over the
same data it adds what no processor can say: that the machine stands in Google's premises, in this project and zone.
"""
