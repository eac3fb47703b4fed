// The console's files, read at start and served from memory: no request touches the disk, so no
// path leads out of the folder. Packed copies beside a file (.br, .gz) go to browsers that take
// them.
//
// Files below assets/ with a hash in their names ("main-K3JH5X2A.js") may be kept by browsers for
// ever; all others are asked for each time (and mostly answered 304). A path whose last part has no
// dot is a page of the console and is answered with index.html. Every answer carries the headers
// that keep foreign code out of the page.
//
// Threads: any after Load; nothing changes.
#ifndef TESSERA_SERVICES_MGMT_WEB_STATIC_FILES_H_
#define TESSERA_SERVICES_MGMT_WEB_STATIC_FILES_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/mgmt/web/http_exchange.h"

namespace tessera::mgmt {

class StaticFiles {
 public:
  // An empty folder name, or a folder without index.html, makes a console that says how to
  // build it. RESOURCE_EXHAUSTED when the folder holds more than 64 MiB: it is some other folder.
  [[nodiscard]] static absl::StatusOr<StaticFiles> Load(const std::string& folder);

  // GET and HEAD; 405 for others.
  [[nodiscard]] WebResponse Answer(const WebRequest& request) const;
  [[nodiscard]] bool has_console() const { return files_.find("/index.html") != files_.end(); }

 private:
  struct Body {
    std::shared_ptr<const std::string> bytes;  // shared with answers under way
    std::string etag;
  };
  struct File {
    std::string content_type;
    bool immutable = false;
    std::map<std::string, Body> bodies;  // by content coding: "", "gzip", "br"
  };

  StaticFiles() = default;
  void Add(const std::string& path, const std::string& coding, std::string bytes);
  // The file that a request's path stands for; null: there is none.
  [[nodiscard]] const File* Find(std::string_view path) const;
  [[nodiscard]] WebResponse AnswerFile(const WebRequest& request, const File& file) const;

  std::map<std::string, File> files_;  // by path: "/assets/main-K3JH5X2A.js"
};

// The security headers of every page and file.
[[nodiscard]] HttpHeaders PageHeaders(bool tls);

// Whether the header Accept-Encoding takes the coding: it names it (or '*') without q=0.
[[nodiscard]] bool AcceptsCoding(std::string_view accept_encoding, std::string_view coding);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_STATIC_FILES_H_
