"""Short trainings, many at once, each judged after every epoch: what rooms that search by training stand on."""
