"""Trees: clients share their site's link, and all sites share the server's; SimGrid alone simulates them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from simulation_cases import needs_simgrid, random_star, sync

from fedbound import study
from fedbound.errors import InputError
from fedbound.simulation import Star, Workload, simulate


def tree(sites: object, bandwidth: object) -> Star:
    return Star(np.inf, np.inf, np.full(3, 1e8), 0.01, sites=sites, site_bandwidth=bandwidth)  # type: ignore[arg-type]


class TestBySimGrid:
    pytestmark = needs_simgrid

    def test_a_full_site_link_is_shared(self) -> None:
        """Sites of 6 and 2 equal clients on links for 2 and 4 of them: closed form for each."""
        count, size, link = 8, 1e6, 1e6
        sites = np.array([0, 0, 0, 0, 0, 0, 1, 1])
        star = Star(np.inf, np.inf, np.full(count, link), 0.01, sites=sites, site_bandwidth=np.array([2e6, 4e6]))
        result = simulate(Workload(np.full(count, 5.0), 0, 0, size, size), star, sync(), "auto")
        fixed = 5 + 2 * 13.01 * 0.01
        np.testing.assert_allclose(result.arrivals[:6], fixed + 2 * 6 * size / (0.97 * 2e6), rtol=1e-9)
        np.testing.assert_allclose(result.arrivals[6:], fixed + 2 * size / (0.97 * link), rtol=1e-9)
        assert result.engine.startswith("simgrid")

    @pytest.mark.parametrize("seed", [0, 1])
    def test_sites_that_are_no_bottleneck_change_nothing(self, seed: int) -> None:
        workload, star = random_star(seed, 20)
        wide = dataclasses.replace(star, sites=np.arange(20) % 3, site_bandwidth=np.full(3, 1e15))
        found = simulate(workload, wide, sync(), "simgrid").arrivals
        # a site of 1e15 bytes/s lowers a flow's weight by 2e-11 s of at least 1e-4 s
        np.testing.assert_allclose(found, simulate(workload, star, sync()).arrivals, rtol=1e-6)


def test_the_fluid_engine_takes_no_sites() -> None:
    with pytest.raises(InputError, match="takes no sites; choose 'simgrid'"):
        simulate(Workload(np.ones(3), 0, 0, 1, 1), tree([0, 0, 1], [1e6, 1e6]), sync())
    with pytest.raises(InputError, match="sites are simulated by the engine simgrid alone"):
        study.parse({"study": "t", "simulation": {"sites": 2}})
    assert study.parse({"study": "t", "simulation": {"sites": 2, "engine": "auto"}}).simulation[0].sites == 2


@pytest.mark.parametrize(
    ("sites", "bandwidth", "message"),
    [
        (None, [1e6], "sites and site_bandwidth belong together"),
        ([0, 0, 0], None, "sites and site_bandwidth belong together"),
        ([0, 0], [1e6], "give one site per client"),
        ([0, 1, 0], [1e6], "sites: 1 for client 1 is refused; there are 1 sites from 0"),
        ([0, 0, 0], [0.0], "site_bandwidth: 0 for client 0 is refused"),
    ],
)
def test_bad_sites_are_refused(sites: object, bandwidth: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tree(sites, bandwidth)
