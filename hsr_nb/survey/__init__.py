"""Real or fake? A survey of people: built, run on a web page or in a notebook, and analysed."""

from .analysis import analyse
from .build import Plan, build_survey
from .folder import Rules, load_survey
from .server import serve
from .widget import SurveyWidget

__all__ = ["Plan", "Rules", "SurveyWidget", "analyse", "build_survey", "load_survey", "serve"]
