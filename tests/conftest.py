"""How hypothesis draws its examples."""

from hypothesis import HealthCheck, settings

# The machines that run this are shared: slowness is no failure. The same examples each time, so that a change that
# fails is the one to blame; `make unit TESTS=--hypothesis-profile=exploring` looks for new ones.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("steady")
