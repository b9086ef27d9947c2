"""The first ring of the proof (docs/adr/0013): the real core in a world that is made up entirely, so that thousands of schedules a second
can be tried. ``graphs`` draws workflows; ``world`` carries out the commands of a machine in any order, breaks what can break, and judges
what is left at the end."""
