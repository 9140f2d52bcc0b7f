// On to the login, and the part of the address that no server sees with it. Replacing this page
// keeps it out of the history, so that Back leads to where the visitor came from.
function onward() {
  var link = document.querySelector("a.button");
  try {
    var to = new URL(link.href);
    var rd = to.searchParams.get("rd") || "/";
    if (rd.indexOf("#") < 0) to.searchParams.set("rd", rd + location.hash);
    location.replace(to.href);
  } catch (old) {
    location.replace(link.href);
  }
}
