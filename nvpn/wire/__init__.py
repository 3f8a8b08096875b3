"""The bytes between two hosts: constants, message layouts, macs and admission.

Shared by protocol and datapath, so it knows neither peers nor sessions. It draws no
randomness and reads no clock.
"""
