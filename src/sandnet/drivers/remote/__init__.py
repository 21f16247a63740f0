"""Networks of other programs: any network plugin of Docker's protocol is a driver."""
