#!/usr/bin/env python3
"""The CNI plugin of an installation without a C compiler."""

from sandnet.cni import main

main()
