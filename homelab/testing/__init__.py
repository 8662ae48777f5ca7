"""Contract tests for any service: without a container, and in a container of the lab.

Subclass `ServiceContract`, name the service, and run pytest; no test of it needs a container:

    class TestPrices(ServiceContract):
        service = Prices
        options = {"port": 8900}

`check_in_container` deploys the service to a container of a running lab, kills the deploy at every command, and stops
its units:

    def test_prices_in_the_lab():
        check_in_container([Path("inventory.yaml"), Lab().overlay], "analytics-platform", "prices")
"""

from homelab.lab import Lab
from homelab.testing.contract import ServiceContract, load_service
from homelab.testing.in_container import check_in_container

__all__ = ["Lab", "ServiceContract", "check_in_container", "load_service"]
